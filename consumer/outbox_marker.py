"""Writes outcomes into the source's outbox rows, and last_synced_at into its business rows."""

from __future__ import annotations

import datetime as dt
import operator
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, assert_never

import sqlalchemy as sa

from connectors.outbox import ERROR_MESSAGE_CHARACTERS_MAX, LAST_SYNCED, EntityType, Status, sync_outbox
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Outcome, Stale, Waiting
from consumer.ports import RaceError, Settlement, TransientError
from consumer.retry import RetryPolicy, is_charged
from consumer.source_database import chunks, one_of, translated

VISIBLE_WAIT_S: Final = 5.0
"""How long a mark waits for a row whose event came before its commit was visible; mostly milliseconds."""

VISIBLE_POLL_S: Final = 0.01

YOUNG: Final = dt.timedelta(hours=1)
"""An event younger than this has a row that nobody removes yet."""

IDS_TOLD_MAX: Final = 5

RACES_MAX: Final = 5
"""Repetitions at once after a deadlock with another member's mark; the winner is through by then."""

_OUTBOX: Final = sync_outbox.c

_UNCHARGED: Final = (ErrorClass.PARENT_MISSING.value, ErrorClass.LOCKED.value)

# A row that says so already goes on saying it when its event comes again: it still waits.
_OVERDUE: Final = sa.and_(_OUTBOX.status == Status.FAILED.value, _OUTBOX.error_class == ErrorClass.PARENT_MISSING.value)


class SqlOutboxMarker:
    """The real OutboxMarker, on PostgreSQL, MySQL or MariaDB; the account needs no more than the marker's rights."""

    def __init__(self, engine: sa.Engine, retry: RetryPolicy, jitter: Callable[[], float] = random.random) -> None:
        self._engine = engine
        self._retry = retry
        self._jitter = jitter
        self._synced: frozenset[str] | None = None

    def mark(self, settlements: Sequence[Settlement]) -> None:
        """See ports.OutboxMarker.

        PostgreSQL streams a commit before it makes it visible to others, so an event may be applied while its row
        cannot be seen yet: the mark waits for it. A row that stays away is one that was removed when its event is
        old; a young one's commit still hangs, for instance on a synchronous standby, and its offset must not move.
        """
        unmarked = settlements
        deadline_s = time.monotonic() + VISIBLE_WAIT_S
        while unmarked := self._mark_with_races(unmarked):
            if time.monotonic() > deadline_s:
                raise _unseen_error(unmarked)
            time.sleep(VISIBLE_POLL_S)

    def _mark_with_races(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        for _ in range(RACES_MAX):
            try:
                return self._mark_visible(settlements)
            except RaceError:
                # Members mark an entity's rows and its business row in the order of their own batches.
                continue
        return self._mark_visible(settlements)

    def _mark_visible(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Mark the rows that can be seen; return the settlements that are still to be marked."""
        if not settlements:
            return ()
        with translated(), self._engine.begin() as connection:
            matched = 0
            for (outcome, settled_at), ids in _done_by_outcome(settlements).items():
                values = {"status": Status.DONE.value, "outcome": outcome, "processed_at": settled_at}
                matched += _update(
                    connection, ids, {**values, "error_class": None, "error_message": None, "next_attempt_at": None}
                )
            matched += _mark_waiting(connection, settlements)
            failed = [one for one in settlements if isinstance(one.outcome, Failed)]
            if failed:
                matched += self._mark_failed(connection, failed)
            if self._synced is None:
                self._synced = _business_tables(connection)
            _mark_synced(connection, settlements, self._synced)
            # What was done before does not match either; only then it has to be looked at which rows are there.
            return () if matched == len(settlements) else _unseen(connection, settlements)

    def _mark_failed(self, connection: sa.Connection, settlements: Sequence[Settlement]) -> int:
        """Write why; only a row that was in hand is charged an attempt, as a repeated mark tells of no new one."""
        matched = 0
        found = _held(connection, [one.event.outbox_id for one in settlements])
        for one in settlements:
            assert isinstance(one.outcome, Failed)  # noqa: S101 - the caller's choice
            row = found.get(one.event.outbox_id)
            told = row is not None and _told(row, one.outcome)
            if told and not is_charged(one.outcome.error_class):
                matched += 1  # why it failed before is still true, and when it is tried again is known
                continue
            values: dict[str, object] = {
                "error_class": one.outcome.error_class.value,
                "error_message": one.outcome.message[:ERROR_MESSAGE_CHARACTERS_MAX],
            }
            if not told:
                attempt = (0 if row is None else row.retry_count) + is_charged(one.outcome.error_class)
                next_at = self._retry.next_attempt_at(
                    one.outcome.error_class, now=one.settled_at, attempts=attempt, jitter=self._jitter()
                )
                values |= {
                    "status": Status.FAILED.value,
                    "outcome": "failed",
                    "retry_count": attempt,
                    "next_attempt_at": next_at,
                }
            matched += _update(connection, [one.event.outbox_id], values)
        return matched


def _done_by_outcome(settlements: Sequence[Settlement]) -> Mapping[tuple[str, dt.datetime], list[uuid.UUID]]:
    found: dict[tuple[str, dt.datetime], list[uuid.UUID]] = {}
    for one in settlements:
        word = _done_word(one.outcome)
        if word is not None:
            found.setdefault((word, one.settled_at), []).append(one.event.outbox_id)
    return found


def _done_word(outcome: Outcome) -> str | None:
    match outcome:
        case Applied():
            return "applied"
        case Duplicate():
            return "duplicate"
        case Stale():
            return "stale"
        case Waiting() | Failed():
            return None
    assert_never(outcome)


def _mark_waiting(connection: sa.Connection, settlements: Sequence[Settlement]) -> int:
    """Name each row's parent, all rows in one call: when a backlog is drained, children by the thousand are early."""
    told = [
        {"waiting_id": one.event.outbox_id, "message": one.outcome.message}
        for one in settlements
        if isinstance(one.outcome, Waiting)
    ]
    if not told:
        return 0
    where = _OUTBOX.outbox_id == sa.bindparam("waiting_id"), _OUTBOX.status != Status.DONE.value, sa.not_(_OVERDUE)
    values: dict[str, object] = {
        "status": Status.PROCESSING.value,
        "outcome": "waiting",
        "error_class": ErrorClass.PARENT_MISSING.value,
        "error_message": sa.bindparam("message"),
        "next_attempt_at": None,
    }
    told.sort(key=operator.itemgetter("waiting_id"))
    return connection.execute(sa.update(sync_outbox).where(*where).values(values), told).rowcount


def _update(connection: sa.Connection, ids: Sequence[uuid.UUID], values: Mapping[str, object]) -> int:
    """Set columns of rows that are not done, and count them: a late mark never takes back what was reached."""
    matched = 0
    for chunk in chunks(ids):
        where = one_of(connection, _OUTBOX.outbox_id, chunk), _OUTBOX.status != Status.DONE.value
        matched += connection.execute(sa.update(sync_outbox).where(*where).values(dict(values))).rowcount
    return matched


def _unseen(connection: sa.Connection, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
    """Return what is still unmarked: rows that came into sight after the update, and young ones not in sight yet."""
    status_by_id: dict[uuid.UUID, str] = {}
    for ids in chunks([one.event.outbox_id for one in settlements]):
        where = one_of(connection, _OUTBOX.outbox_id, ids)
        for row in connection.execute(sa.select(_OUTBOX.outbox_id, _OUTBOX.status).where(where)):
            status_by_id[row.outbox_id] = row.status
    young_since = dt.datetime.now(dt.UTC) - YOUNG
    absent = {one.event.outbox_id for one in settlements if one.event.created_at > young_since} - set(status_by_id)
    # Every mark takes a row out of pending, so one that is pending was not there for it.
    pending = {one for one, status in status_by_id.items() if status == Status.PENDING.value}
    return [one for one in settlements if one.event.outbox_id in absent | pending]


def _unseen_error(settlements: Sequence[Settlement]) -> TransientError:
    ids = ", ".join(str(one.event.outbox_id) for one in settlements[:IDS_TOLD_MAX])
    message = (
        f"{len(settlements)} outbox rows cannot be seen after {VISIBLE_WAIT_S:.0f} s, though their events came "
        f"({ids}): their commit hangs, or they were deleted; events older than {YOUNG} no longer wait for a row"
    )
    return TransientError(message)


def _held(connection: sa.Connection, ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, sa.Row[Any]]:
    """Lock the rows, and return what is known of their attempts."""
    found: dict[uuid.UUID, sa.Row[Any]] = {}
    for chunk in chunks(ids):
        where = one_of(connection, _OUTBOX.outbox_id, chunk)
        columns = _OUTBOX.outbox_id, _OUTBOX.status, _OUTBOX.retry_count, _OUTBOX.error_class
        found |= {row.outbox_id: row for row in connection.execute(sa.select(*columns).where(where).with_for_update())}
    return found


def _told(row: sa.Row[Any], outcome: Failed) -> bool:
    """Tell whether the row says already that its attempt has failed.

    That its parent did not come in time, or that somebody held its rows, was told without an attempt: the next one
    counts.
    """
    is_another = row.error_class in _UNCHARGED and row.error_class != outcome.error_class.value
    return row.status == Status.FAILED.value and not is_another


def _business_tables(connection: sa.Connection) -> frozenset[str]:
    """Return those business tables that are there and granted: an application may have the outbox alone."""
    schema = "current_schema()" if connection.dialect.name == "postgresql" else "DATABASE()"
    columns = "SELECT table_name AS name FROM information_schema.columns WHERE column_name = 'last_synced_at'"
    found = connection.execute(sa.text(f"{columns} AND table_schema = {schema}"))
    return frozenset(str(row.name) for row in found)


def _mark_synced(connection: sa.Connection, settlements: Sequence[Settlement], present: frozenset[str]) -> None:
    """Tell the business rows when OpenEMR got them; a stale event told nothing new.

    A duplicate may be the repetition of what a killed process applied and did not mark: it counts for a business row
    that was last synced before that event was made.
    """
    repeated = [one.event.outbox_id for one in settlements if isinstance(one.outcome, Duplicate)]
    synced: dict[tuple[EntityType, dt.datetime, bool], set[str]] = {}
    for one in settlements:
        if isinstance(one.outcome, Applied | Duplicate) and LAST_SYNCED[one.event.key.entity_type].name in present:
            group = one.event.key.entity_type, one.settled_at, isinstance(one.outcome, Applied)
            synced.setdefault(group, set()).add(one.event.key.entity_id)
    for (entity_type, at, applied), ids in synced.items():
        table = LAST_SYNCED[entity_type]
        key, last_synced_at = table.c[0], table.c.last_synced_at
        before = sa.literal(at) if applied else _newest_made(entity_type, key, repeated)
        for chunk in chunks(list(ids)):
            where = one_of(connection, key, chunk), sa.or_(last_synced_at.is_(None), last_synced_at < before)
            connection.execute(sa.update(table).where(*where).values(last_synced_at=at))


def _newest_made(
    entity_type: EntityType, key: sa.ColumnElement[Any], events: Sequence[uuid.UUID]
) -> sa.ColumnElement[dt.datetime]:
    """Ask when the newest of these events of a business row's entity was made."""
    made = _OUTBOX.entity_type == entity_type.value, _OUTBOX.entity_id == key, _OUTBOX.outbox_id.in_(events)
    return sa.select(sa.func.max(_OUTBOX.created_at)).where(*made).scalar_subquery()
