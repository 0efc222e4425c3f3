"""When a failed row is tried again: tables, and what holds for any policy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.config import SettingsError
from consumer.config import RetrySettings, SettlingSettings
from consumer.outcome import GROUPS, ErrorClass, ErrorGroup
from consumer.retry import RetryPolicy, is_charged
from tests.made_events import NOON

REFUSED, INTERNAL = ErrorClass.REFUSED, ErrorClass.INTERNAL


def delay_s(policy: RetryPolicy, error_class: ErrorClass, attempts: int, jitter: float = 1) -> float | None:
    """Give the delay in seconds."""
    at = policy.next_attempt_at(error_class, now=NOON, attempts=attempts, jitter=jitter)
    return None if at is None else (at - NOON).total_seconds()


@pytest.mark.parametrize(
    ("error_class", "bounds"),
    [
        (REFUSED, [30, 120, 480, 1_920, 7_680, None, None]),
        (INTERNAL, [30, 120, 480, 1_920, 7_680, 14_400, 14_400, 14_400, 14_400, None, None]),
        (ErrorClass.CONFLICT, [None, None]),
        (ErrorClass.PARENT_MISSING, [None, None]),
    ],
)
def test_bounds_grow_up_to_the_longest_until_the_attempts_are_used_up(
    error_class: ErrorClass, bounds: list[float | None]
) -> None:
    """By the default policy: few for what is rejected, more for our faults, none where a retry cannot help."""
    assert bounds == [delay_s(RetryPolicy(), error_class, attempts) for attempts in range(1, len(bounds) + 1)]


def test_the_whole_delay_is_random() -> None:
    """Full jitter: rows that failed together do not come back together."""
    assert [0, 60, 120] == [delay_s(RetryPolicy(), REFUSED, 2, jitter) for jitter in (0, 0.5, 1)]


def test_the_total_time_is_bounded_before_the_attempts_are() -> None:
    """The bounds up to the next attempt may not add up to more."""
    policy = RetryPolicy(total_max_s=30 + 120 + 480)

    assert [30, 120, 480, None] == [delay_s(policy, REFUSED, attempts) for attempts in range(1, 5)]


def test_every_class_has_its_group() -> None:
    """One table, and no class is forgotten."""
    assert set(ErrorClass) == set(GROUPS)
    assert set(ErrorGroup) == set(GROUPS.values())


@given(
    first=st.floats(0.001, 1_000),
    growth=st.floats(1, 10),
    longest=st.floats(1, 100_000),
    attempts_max=st.integers(1, 100),
    total=st.floats(1, 1_000_000),
    jitters=st.lists(st.floats(0, 1), min_size=100, max_size=100),
    error_class=st.sampled_from([one for one in ErrorClass if is_charged(one)]),
)
def test_any_policy_ends_within_its_attempts_and_its_total_time(
    *,
    first: float,
    growth: float,
    longest: float,
    attempts_max: int,
    total: float,
    jitters: list[float],
    error_class: ErrorClass,
) -> None:
    """Whatever the random numbers are; and no delay is longer than its bound, nor a bound shorter than the last."""
    longest, total = max(first, longest), max(first, total)
    policy = RetryPolicy(
        delay_first_s=first,
        delay_growth=growth,
        delay_max_s=longest,
        attempts_rejected=attempts_max,
        attempts_ours=attempts_max,
        total_max_s=total,
    )
    spent, attempts, bound = 0.0, 1, 0.0
    while (delay := delay_s(policy, error_class, attempts, jitters[attempts - 1])) is not None:
        assert bound <= policy.delay_bound_s(attempts) <= longest
        bound = policy.delay_bound_s(attempts)
        assert 0 <= delay <= bound + 1e-6
        spent, attempts = spent + delay, attempts + 1

    assert attempts <= policy.attempts_max(error_class) <= attempts_max
    assert spent <= total + 1e-3


def test_what_somebody_holds_is_tried_again_soon_and_without_an_end() -> None:
    """No attempt is charged to it, and it costs its retrier a short wait."""
    assert [ErrorClass.LOCKED] == [one for one in ErrorClass if not is_charged(one)]
    for attempts in (0, 1, 1_000):
        assert 5.0 == delay_s(RetryPolicy(), ErrorClass.LOCKED, attempts)
        assert 2.5 == delay_s(RetryPolicy(), ErrorClass.LOCKED, attempts, 0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"delay_first_s": 0}, "delay_first"),
        ({"delay_first_s": -1}, "delay_first"),
        ({"delay_first_s": 20, "delay_max_s": 10}, "delay_max"),
        ({"delay_growth": 0.5}, "delay_growth"),
        ({"delay_growth": 11}, "delay_growth"),
        ({"attempts_rejected": 0}, "attempts_rejected"),
        ({"attempts_ours": 101}, "attempts_ours"),
        ({"total_max_s": 29}, "total_max"),
    ],
)
def test_senseless_policies_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    """At once, not at the first failure."""
    with pytest.raises(ValueError, match=named):
        RetryPolicy(**wrong)


URLS = {"openemr_url": "mysql+pymysql://u@h/d", "source_url": "postgresql+psycopg://u@h/d"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retry_delay_first_seconds", 0),
        ("retry_delay_first_seconds", 14_401),
        ("retry_delay_growth", 0),
        ("retry_delay_max_seconds", 29),
        ("retry_attempts_rejected", 0),
        ("retry_attempts_ours", 1_000),
        ("retry_total_seconds_max", 10),
        ("retry_interval_seconds", 0),
        ("retry_rows_max", 501),
        ("retry_hold_seconds", 0),
        ("retry_storm_failures", 0),
        ("retry_storm_pause_seconds", 0),
    ],
)
def test_senseless_settings_are_refused(name: str, value: float) -> None:
    """The message names them, alone or together with what they do not fit."""
    words = name.removeprefix("retry_").removesuffix("_max").removesuffix("_seconds")

    with pytest.raises(SettingsError, match=f"(?i){words}"):
        RetrySettings.read(**URLS, **{name: value})


def test_the_settings_defaults_are_the_policys() -> None:
    """Said twice, once for the environment and once for the code."""
    assert RetryPolicy() == SettlingSettings.read(**URLS).retry_policy
