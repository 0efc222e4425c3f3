"""One outage under load, from the calm before it to the last row done, and what was seen of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.chaos import effects
from tests.chaos.arena import Arena
from tests.chaos.checker import Checker
from tests.chaos.faults import Fault
from tests.chaos.load import Load
from tests.e2e.members import wait_for

EVENTS_PER_S: Final = 100.0
CALM_S: Final = 2.0
RECOVERED_AGE_S: Final = 2.0
"""The chain keeps up again when no unfinished row is older."""

RECOVERY_LIMIT_S: Final = 120.0
REST_LIMIT_S: Final = 60.0
FIRST_NUMBER: Final = 2_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What one outage did.

    Attributes:
        outage_s: from its beginning until the system answered again.
        recovery_s: from then until no unfinished row was older than RECOVERED_AGE_S.
        events: all that the application committed in the run.
        commits_meanwhile: transactions of the application that were committed during the outage.
        commits_lost: those that failed, because the application's own database was away.
        charged: rows with a retry_count.
        reassigned: changes of the group's assignment that the members logged.
        ended: last log lines of members that ended by themselves.
        violations: what the checker found at the end, the diary's findings among it.
    """

    outage_s: float
    recovery_s: float
    events: int
    commits_meanwhile: int
    commits_lost: int
    charged: int
    reassigned: int
    ended: tuple[str, ...]
    statuses: dict[str, int]
    violations: tuple[str, ...]

    def complaints(self) -> list[str]:
        """Say what no outage may show; nothing when it was endured."""
        return complaints_of(self.violations, ended=self.ended, charged=self.charged, statuses=self.statuses)


def complaints_of(
    violations: Sequence[str], *, ended: Sequence[str], charged: int, statuses: Mapping[str, int]
) -> list[str]:
    """Say what no run may show, whatever was done to the chain; nothing when it was good."""
    found = [*violations, *(f"a member ended by itself: {one}" for one in ended)]
    if charged:
        found.append(f"{charged} rows were charged an attempt")
    if wrong := {status: count for status, count in statuses.items() if not status.startswith("done")}:
        found.append(f"not every row is done: {wrong}")
    return found


@contextlib.contextmanager
def watched(arena: Arena) -> Iterator[Checker]:
    """Keep the diary and give a checker that sees what is written from now on."""
    database = arena.clerk.url.database
    assert database is not None
    with effects.diary(arena.clerk, database), contextlib.closing(Checker(arena.variables)) as checker:
        yield checker


def load_for(arena: Arena, checker: Checker, *, events_per_s: float, seed: int) -> Load:
    """Give a load about patients that no earlier run on the same chain was about."""
    return Load(
        arena.variables["EMRSYNC_APP_URL"],
        events_per_s=events_per_s,
        seed=seed,
        first_number=FIRST_NUMBER + checker.after,
    )


def endure(arena: Arena, fault: Fault, hold_s: float, *, seed: int = 1) -> Outage:
    """Inject a fault under load, let the load go on for a while, and wait until all is done.

    Raises:
        AssertionError: the chain did not recover, or rows were left over.
    """
    with watched(arena) as checker:
        with load_for(arena, checker, events_per_s=EVENTS_PER_S, seed=seed).running() as written:
            time.sleep(CALM_S)
            assigned = arena.members.count("assigned")
            begun_s = time.monotonic()
            fault(arena, hold_s)
            mended_s = time.monotonic()
            wait_for(
                lambda: checker.oldest_unfinished_s() < RECOVERED_AGE_S,
                RECOVERY_LIMIT_S,
                lambda: (checker.statuses(), arena.members.ended()),
                interval_s=0.2,
            )
            recovered_s = time.monotonic()
            time.sleep(CALM_S)
        checker.wait_at_rest(REST_LIMIT_S)
        rows = checker.rows()
        return Outage(
            outage_s=mended_s - begun_s,
            recovery_s=recovered_s - mended_s,
            events=len(rows),
            commits_meanwhile=written.commits_between(begun_s, mended_s),
            commits_lost=written.lost,
            charged=sum(row["retry_count"] > 0 for row in rows),
            reassigned=arena.members.count("assigned") - assigned,
            ended=tuple(arena.members.ended()),
            statuses=dict(checker.statuses()),
            violations=tuple(checker.violations(at_rest=True, with_diary=True)),
        )
