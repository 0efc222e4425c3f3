"""A replay's plan: the exact events, what applying them would do, and how a later look differs from it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from operations.errors import PlanChangedError
from operations.record_source import Span
from operations.replay_selection import Selection

SAMPLE_MAX: Final = 20
_SHOWN: Final = 3

DUPLICATE: Final = "duplicate"
STALE: Final = "stale"
WRITE: Final = "write"
UNCHANGED: Final = "unchanged"
REWRITE: Final = "rewrite"
WAIT: Final = "wait"
FAIL: Final = "fail"
UNREADABLE: Final = "unreadable"
FATES: Final = (DUPLICATE, STALE, UNCHANGED, WRITE, REWRITE, WAIT, FAIL, UNREADABLE)
"""What would become of an event, in the order in which it is told."""

_SETTLED: Final = frozenset({DUPLICATE, STALE})
_UNSETTLED: Final = frozenset({WAIT, FAIL, UNREADABLE})

EntityName: TypeAlias = tuple[str, str]
"""Entity type and id."""

Changes: TypeAlias = Mapping[EntityName, tuple[str, ...] | None]
"""By entity the names of the columns that would be written otherwise, never their values; None for a new row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """What a look at the events has found.

    ids: their outbox ids, 16 bytes each, in the order of the replay; zeros for a record that has none.
    prints: digests of place, id and value, 8 bytes each, in the same order; digest: of all of them, as hex.
    fates: by id, of all but the duplicates; failures: how many by error class and message.
    changes: of all entities whose rows would be made or changed, in the order of the replay.
    """

    ids: tuple[bytes, ...]
    prints: tuple[bytes, ...]
    digest: str
    counts: Counter[str]
    fates: Mapping[bytes, str]
    failures: Counter[tuple[str, str]]
    changes: Changes

    @property
    def sample(self) -> Changes:
        """The first entities, to be shown."""
        return dict(itertools.islice(self.changes.items(), SAMPLE_MAX))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A forecast, what it was asked for, and where it was read; estimate_s is for applying at full speed."""

    plan_id: str
    made_at: dt.datetime
    made_by: str
    selection: Selection
    source: str
    spans: tuple[Span, ...]
    force_rewrite: bool
    limits_hit: tuple[str, ...]
    estimate_s: float
    forecast: Forecast

    def writes(self, outbox_id: bytes) -> bool:
        """Tell whether the plan expects of an event that it writes a row of OpenEMR's."""
        return self.forecast.fates.get(outbox_id) in {WRITE, REWRITE}


def check_set(plan: Plan, now: Forecast, *, done: int) -> None:
    """Compare the events that are left, after so many that are done, with those of the plan.

    Raises:
        PlanChangedError: they are others, and how.
    """
    ids, prints = plan.forecast.ids[done:], plan.forecast.prints[done:]
    if (ids, prints) == (now.ids, now.prints):
        return
    before, after = Counter(ids), Counter(now.ids)
    differing = [one for one, a, b in zip(ids, prints, now.prints, strict=False) if a != b] if before == after else []
    words = [
        f"{sum(some.values())} events {what} ({', '.join(sorted(one.hex() for one in some)[:_SHOWN])})"
        for some, what in (
            (before - after, "are there no more"),
            (after - before, "were not there"),
            (Counter(differing), "are at other places or have other payloads"),
        )
        if some
    ]
    raise PlanChangedError(f"the set has changed: {', '.join(words)}; plan again")


def check_fates(plan: Plan, now: Forecast, *, done: int, begun: bool) -> None:
    """Compare what would become of the events that are left, after so many that are done, with what the plan says.

    begun: an earlier run may have settled some of those that are left, and has given their entities other rows than
    the plan met: then only what is worse than planned, or writes columns that the plan does not name, is a change.

    Raises:
        PlanChangedError: it is something else by now, and what.
    """
    left = set(plan.forecast.ids[done:])
    before, after = plan.forecast.fates, now.fates
    moved: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for one in before.keys() | after.keys():
        pair = before.get(one, DUPLICATE), after.get(one, DUPLICATE)
        if one in left and (_is_worse(*pair) if begun else pair[0] != pair[1]):
            moved[pair] += 1
            example[pair] = min(one.hex(), example.get(pair, one.hex()))
    if moved:
        words = [f"{count} would have ended as {a}, now as {b} (such as {example[a, b]})" for (a, b), count in
                 sorted(moved.items())]  # fmt: skip
        raise PlanChangedError(f"OpenEMR or the ledger has changed since the plan: {'; '.join(words)}; plan again")
    if others := _written_otherwise(plan.forecast.changes, now.changes, begun=begun):
        raise PlanChangedError(
            f"OpenEMR's rows have changed since the plan: {len(others)} entities would be written otherwise"
            f" ({'; '.join(others[:_SHOWN])}); plan again"
        )


def _is_worse(before: str, after: str) -> bool:
    return before != after and (after in _UNSETTLED or (before in _SETTLED and after not in _SETTLED))


def _written_otherwise(before: Changes, after: Changes, *, begun: bool) -> Sequence[str]:
    """Name the entities whose rows or columns are others, and these."""
    found = []
    for name in [*after, *before.keys() - after.keys()]:
        entity = " ".join(name)
        planned, now = before.get(name, ()), after.get(name, ())
        if planned is None or now is None:
            # A row that the first part has made is no longer new, and one that it saw removed is.
            if planned is not now and not begun:
                found.append(f"{entity}: {'no longer new' if planned is None else 'a new row now'}")
            continue
        more, fewer = sorted({*now} - {*planned}), sorted({*planned} - {*now})
        if more or (fewer and not begun):
            words = [f"{what} {', '.join(some)}" for what, some in (("also", more), ("no longer", fewer)) if some]
            found.append(f"{entity}: {' and '.join(words)}")
    return found
