"""OpenEMR's database as a rehearsal sees it: every transaction is carried out and rolled back, and none can commit."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import sqlalchemy as sa

from connectors.events import EntityKey, Event
from connectors.payloads import AnyPayload
from consumer.drafting import Draft, Drafting
from consumer.openemr.comparison import differing
from consumer.openemr.identifiers import NUMBER_MAX, Numbers
from consumer.openemr.site import SiteChoices
from consumer.openemr.target import OpenEmrTarget
from consumer.openemr.transaction import OpenEmrTransaction
from consumer.outcome import Applied, Failed, Stale, Waiting
from consumer.ports import Change, Mapped, StreamPosition, TargetTransaction


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """What a write would do to OpenEMR's rows of one entity: make them, or change these columns."""

    is_new: bool
    columns: tuple[str, ...]


class RehearsedNumbers(Numbers):
    """Numbers that are reserved nowhere, since no row with them will stay.

    Those of the sequence are the next ones and not high ones: prescriptions has its own counter, which follows the
    highest id that was ever inserted, also when it was rolled back.
    """

    def take_pids(self, count: int, transaction: sa.Connection) -> Sequence[int]:  # noqa: ARG002 - the real one's
        """Return pids that neither OpenEMR nor another rehearsal will use meanwhile."""
        first = NUMBER_MAX - random.randrange(1, 1_000_000) * 1_000  # noqa: S311 - no secret
        return range(first, first + count)

    def take_numbers(self, count: int, *, above: int = 0) -> Sequence[int]:
        """Return numbers that are free now."""
        with self._connection.begin():
            present = int(self._connection.exec_driver_sql("SELECT COALESCE(MAX(id), 0) FROM sequences").scalar_one())
        first = max(present, above, self._encounter_max) + 1
        return range(first, first + count)


class RehearsalTarget:
    """A Target whose transactions say what they would have done, with all of the server's own checks."""

    def __init__(self, engine: sa.Engine, *, ledger_schema: str, group_id: str, choices: SiteChoices) -> None:
        self._target = OpenEmrTarget(
            engine,
            ledger_schema=ledger_schema,
            group_id=group_id,
            choices=choices,
            numbers=RehearsedNumbers,
        )
        self._differences: dict[EntityKey, Difference] = {}

    def close(self) -> None:
        """Give the connections back."""
        self._target.close()

    def differences(self) -> Mapping[EntityKey, Difference]:
        """Give what was found since the last call; an entity whose rows would stay as they are has no columns."""
        found, self._differences = self._differences, {}
        return found

    def drafting(self) -> Drafting:
        """See ports.Target."""
        return self._target.drafting()

    def draft(self, event: Event, payload: AnyPayload) -> Draft | Failed:
        """See ports.Target."""
        return self._target.draft(event, payload)

    @contextmanager
    def transaction(self) -> Iterator[TargetTransaction]:
        """Open a transaction that is rolled back whatever it is told."""
        with self._target.transaction() as real:
            yield _RehearsedTransaction(real, self._differences)

    def lock_wait(self, seconds: int) -> AbstractContextManager[None]:
        """See ports.Target."""
        return self._target.lock_wait(seconds)

    def known(self, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        """See OpenEmrTarget.known."""
        return self._target.known(outbox_ids)

    def releasable(self, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """See ports.Target."""
        return self._target.releasable(limit, keys)

    def overdue(self, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """See ports.Target."""
        return self._target.overdue(since, limit)

    def forget(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """Do nothing: it would last."""

    def reported_overdue(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """Do nothing: it would last."""


class _RehearsedTransaction:
    def __init__(self, real: OpenEmrTransaction, differences: dict[EntityKey, Difference]) -> None:
        self._real = real
        self._differences = differences

    def require(self, positions: Sequence[StreamPosition]) -> None:
        self._real.require(positions)

    def settled(self, outbox_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
        return self._real.settled(outbox_ids)

    def lock(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        return self._real.lock(keys)

    def find(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, Mapped]:
        return self._real.find(keys)

    def write(self, changes: Sequence[Change]) -> Mapping[EntityKey, Applied | Failed]:
        known = {change.event.key: change.mapped for change in changes if change.mapped is not None}
        before = self._real.rows(known)
        outcomes = self._real.write(changes)
        after = self._real.rows(self.find([change.event.key for change in changes]))
        for key, outcome in outcomes.items():
            if isinstance(outcome, Applied):
                mapped = known.get(key)
                is_new = mapped is None or mapped.local_id is None
                self._differences[key] = Difference(is_new, differing(before.get(key, {}), after.get(key, {})))
        return outcomes

    def record(self, settled: Sequence[tuple[Event, Applied | Stale]], positions: Sequence[StreamPosition]) -> None:
        self._real.record(settled, positions)

    def park(self, waiting: Sequence[tuple[Event, Waiting]]) -> None:
        self._real.park(waiting)

    def commit(self) -> None:
        self._real.send()
