"""Writes outcomes into the source's outbox rows, and last_synced_at into its business rows."""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar, assert_never

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from connectors.outbox import ERROR_MESSAGE_CHARACTERS_MAX, LAST_SYNCED, EntityType, Status, sync_outbox
from consumer.outcome import Applied, Duplicate, ErrorClass, Failed, Outcome, Stale, Waiting
from consumer.ports import MisconfiguredError, Settlement, TransientError
from consumer.retry import RetryPolicy

ROWS_MAX: Final = 500
"""Rows of one UPDATE."""

VISIBLE_WAIT_S: Final = 5.0
"""How long a mark waits for a row whose event came before its commit was visible; mostly milliseconds."""

VISIBLE_POLL_S: Final = 0.01

YOUNG: Final = dt.timedelta(hours=1)
"""An event younger than this has a row that nobody removes yet."""

IDS_TOLD_MAX: Final = 5

_Key = TypeVar("_Key", uuid.UUID, str)

_OUTBOX: Final = sync_outbox.c


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
        while unmarked := self._mark_visible(unmarked):
            if time.monotonic() > deadline_s:
                raise _unseen_error(unmarked)
            time.sleep(VISIBLE_POLL_S)

    def _mark_visible(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Mark the rows that can be seen; return the settlements that are still to be marked."""
        if not settlements:
            return ()
        with _translated(), self._engine.begin() as connection:
            matched = 0
            for (outcome, settled_at), ids in _done_by_outcome(settlements).items():
                values = {"status": Status.DONE.value, "outcome": outcome, "processed_at": settled_at}
                matched += _update(
                    connection, ids, {**values, "error_class": None, "error_message": None, "next_attempt_at": None}
                )
            for settlement in settlements:
                if isinstance(settlement.outcome, Waiting):
                    matched += _update(connection, [settlement.event.outbox_id], _waiting(settlement.outcome))
            failed = [one for one in settlements if isinstance(one.outcome, Failed)]
            if failed:
                matched += self._mark_failed(connection, failed)
            if self._synced is None:
                self._synced = _business_tables(connection)
            _mark_synced(connection, settlements, self._synced)
            # What was done before does not match either; only then it has to be looked at which rows are there.
            return () if matched == len(settlements) else _unseen(connection, settlements)

    def _mark_failed(self, connection: sa.Connection, settlements: Sequence[Settlement]) -> int:
        matched = 0
        attempts = _attempts(connection, [one.event.outbox_id for one in settlements])
        for one in settlements:
            assert isinstance(one.outcome, Failed)  # noqa: S101 - the caller's choice
            attempt = attempts.get(one.event.outbox_id, 0) + 1
            values = {
                "status": Status.FAILED.value,
                "outcome": "failed",
                "retry_count": attempt,
                "error_class": one.outcome.error_class.value,
                "error_message": one.outcome.message[:ERROR_MESSAGE_CHARACTERS_MAX],
                "next_attempt_at": self._retry.next_attempt_at(
                    now=one.settled_at, attempts=attempt, jitter=self._jitter()
                ),
            }
            matched += _update(connection, [one.event.outbox_id], values)
        return matched


def create_engine(url: str) -> sa.Engine:
    """Make the marker's engine: two connections, with time limits, in UTC."""
    options: dict[str, object] = {"connect_timeout": 5}
    if sa.make_url(url).get_backend_name() != "postgresql":
        # DATETIME columns of the outbox are UTC.
        options |= {"charset": "utf8mb4", "init_command": "SET time_zone = '+00:00'", "read_timeout": 30}
    else:
        # A batch's update takes milliseconds; longer means a lock or an outage, which is tried again.
        options |= {"options": "-c statement_timeout=30000 -c lock_timeout=10000 -c timezone=UTC"}
        # The driver has no time-out for an answer: a network that swallows packets is noticed by TCP, after 15 s.
        options |= {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
    return sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=2,  # one for the marks of batches, one for what is released from the waiting room meanwhile
        max_overflow=0,
        connect_args=options,
    )


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


def _waiting(outcome: Waiting) -> Mapping[str, object]:
    return {
        "status": Status.PROCESSING.value,
        "outcome": "waiting",
        "error_class": ErrorClass.PARENT_MISSING.value,
        "error_message": outcome.message,
    }


def _update(connection: sa.Connection, ids: Sequence[uuid.UUID], values: Mapping[str, object]) -> int:
    """Set columns of rows that are not done, and count them: a late mark never takes back what was reached."""
    matched = 0
    for chunk in _chunks(ids):
        where = _one_of(connection, _OUTBOX.outbox_id, chunk), _OUTBOX.status != Status.DONE.value
        matched += connection.execute(sa.update(sync_outbox).where(*where).values(dict(values))).rowcount
    return matched


def _unseen(connection: sa.Connection, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
    """Return what is still unmarked: rows that came into sight after the update, and young ones not in sight yet."""
    status_by_id: dict[uuid.UUID, str] = {}
    for ids in _chunks([one.event.outbox_id for one in settlements]):
        where = _one_of(connection, _OUTBOX.outbox_id, ids)
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


def _one_of(connection: sa.Connection, column: sa.ColumnElement[Any], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Compare with a list of values: as one array on PostgreSQL, where 500 parameters cost more than the update."""
    if connection.dialect.name != "postgresql":
        return column.in_(values)
    kind = postgresql.UUID(as_uuid=True) if isinstance(values[0], uuid.UUID) else sa.Text()
    return column == sa.any_(sa.bindparam(None, list(values), type_=postgresql.ARRAY(kind)))


def _attempts(connection: sa.Connection, ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, int]:
    found: dict[uuid.UUID, int] = {}
    for chunk in _chunks(ids):
        where = _one_of(connection, _OUTBOX.outbox_id, chunk)
        rows = connection.execute(sa.select(_OUTBOX.outbox_id, _OUTBOX.retry_count).where(where).with_for_update())
        found |= {row.outbox_id: row.retry_count for row in rows}
    return found


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
        for chunk in _chunks(list(ids)):
            where = _one_of(connection, key, chunk), sa.or_(last_synced_at.is_(None), last_synced_at < before)
            connection.execute(sa.update(table).where(*where).values(last_synced_at=at))


def _newest_made(
    entity_type: EntityType, key: sa.ColumnElement[Any], events: Sequence[uuid.UUID]
) -> sa.ColumnElement[dt.datetime]:
    """Ask when the newest of these events of a business row's entity was made."""
    made = _OUTBOX.entity_type == entity_type.value, _OUTBOX.entity_id == key, _OUTBOX.outbox_id.in_(events)
    return sa.select(sa.func.max(_OUTBOX.created_at)).where(*made).scalar_subquery()


def _chunks(values: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    """Cut into statements, sorted, so that members come to shared rows in much the same order."""
    ordered = sorted(values)
    for start in range(0, len(ordered), ROWS_MAX):
        yield ordered[start : start + ROWS_MAX]


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what the use cases know; the driver's text may hold values and is cut off."""
    try:
        yield
    except sa.exc.OperationalError as error:
        kind = type(error.orig).__name__
        raise TransientError(f"the source database is away or busy ({kind})") from None
    except sa.exc.InterfaceError:
        raise TransientError("the source database: connection lost") from None
    except sa.exc.DBAPIError as error:
        kind = type(error.orig).__name__
        raise MisconfiguredError(f"the source database refused to mark the outbox rows ({kind})") from None
