"""When a failed row is tried again, as a table."""

from __future__ import annotations

import pytest

from consumer.retry import RetryPolicy
from tests.made_events import NOON


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"),
    [
        (1, 0.0, 15),
        (1, 0.5, 22.5),
        (1, 1.0, 30),
        (2, 1.0, 60),
        (3, 1.0, 120),
        (7, 1.0, 1_920),
        (8, 1.0, 3_600),
        (9, 0.0, 1_800),
        (9, 1.0, 3_600),
        (10, 0.0, None),
        (11, 1.0, None),
    ],
)
def test_delays_double_up_to_an_hour_with_half_of_each_at_random(
    attempts: int, jitter: float, seconds: float | None
) -> None:
    """The default policy; the tenth failure is the last."""
    at = RetryPolicy().next_attempt_at(now=NOON, attempts=attempts, jitter=jitter)

    assert seconds == (None if at is None else (at - NOON).total_seconds())


def test_any_number_of_attempts_has_a_bounded_delay() -> None:
    """No power of two runs away."""
    policy = RetryPolicy(attempts_max=10**9)
    at = policy.next_attempt_at(now=NOON, attempts=10**9 - 1, jitter=1)

    assert at is not None
    assert 3_600 == (at - NOON).total_seconds()


@pytest.mark.parametrize(
    ("first_s", "longest_s", "attempts", "named"),
    [(0, 10, 1, "delay_first_s"), (-1, 10, 1, "delay_first_s"), (20, 10, 1, "delay_max_s"), (1, 10, 0, "attempts_max")],
)
def test_senseless_settings_are_refused_by_name(first_s: float, longest_s: float, attempts: int, named: str) -> None:
    """At once, not at the first failure."""
    with pytest.raises(ValueError, match=named):
        RetryPolicy(delay_first_s=first_s, delay_max_s=longest_s, attempts_max=attempts)
