"""OpenEMR's database as the use cases see it: drafts checked against the site, and transactions with the ledger."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
import structlog

from connectors.events import EntityKey, Event
from connectors.payloads import AnyPayload
from consumer.openemr.drafts import RowDraft
from consumer.openemr.errors import translated
from consumer.openemr.gate import FIRST_START, accept, admitted, tables_gone
from consumer.openemr.identifiers import Numbers
from consumer.openemr.ledger import Ledger, Lock
from consumer.openemr.packet import Packet
from consumer.openemr.session import LOCK_WAIT_TIMEOUT_S, utc_offset
from consumer.openemr.shape import read_shape
from consumer.openemr.site import Site, SiteChoices, TablesMissingError, read_site
from consumer.openemr.tables import Tables
from consumer.openemr.transaction import OpenEmrTransaction
from consumer.openemr.writing import Writer
from consumer.outcome import ErrorClass, Failed, Waiting
from consumer.ports import (
    MisconfiguredError,
    OutdatedError,
    PausedError,
    RefusedError,
    RestoredError,
    StreamPosition,
)

_log = structlog.get_logger()

SITE_MAX_AGE_S: Final = 300.0
"""The site is read again this often, so that a new facility or user is seen without a restart."""

SITE_MIN_AGE_S: Final = 10.0
"""And at once when an event names something unknown, but no more often than this."""

REFUSED_MIN_AGE_S: Final = 1.0
"""And when the database refuses a row, in case an upgrade is why; no more often, as refusals come in crowds."""


class OpenEmrTarget:
    """The real Target; holds its connections until close, and is used by one thread."""

    def __init__(
        self,
        engine: sa.Engine,
        *,
        ledger_schema: str,
        group_id: str,
        choices: SiteChoices,
        numbers: Callable[[sa.Engine, str], Numbers] = Numbers,
    ) -> None:
        self._engine = engine
        self._ledger_schema = ledger_schema
        self._choices = choices
        self._ledger = Ledger(ledger_schema, group_id)
        self._lock_wait_s = LOCK_WAIT_TIMEOUT_S
        self._nobody_waits = False
        with translated(ledger_schema):
            self._connection = engine.connect()
            self._packet = Packet(self._connection)
            try:
                self._tables = self._read_tables()
                self._numbers = numbers(engine, ledger_schema)
            except BaseException:
                # Whoever waits for the end of a pause opens one target after the other.
                self._connection.close()
                engine.dispose()
                raise

    @property
    def site(self) -> Site:
        """The site as last read."""
        return self._tables.site

    def close(self) -> None:
        """Give the connections back."""
        self._connection.close()
        self._numbers.close()
        self._engine.dispose()

    def draft(self, event: Event, payload: AnyPayload) -> RowDraft | Failed:
        """See ports.Target."""
        draft = self._tables.draft(event, payload)
        if isinstance(draft, Failed) and draft.error_class is ErrorClass.UNKNOWN_OPTION:
            # Somebody may have added it since the site was read.
            return self._tables.draft(event, payload) if self._refresh(SITE_MIN_AGE_S) else draft
        return draft

    def drafting(self) -> Tables:
        """See ports.Target."""
        return self._tables

    @contextmanager
    def transaction(self) -> Iterator[OpenEmrTransaction]:
        """See ports.Target; what was found outdated has been read again when OutdatedError leaves here."""
        with translated(self._ledger_schema):
            self._refresh(SITE_MAX_AGE_S)
        with self._reading_again(), translated(self._ledger_schema), self._connection.begin() as transaction:
            self._set_session()
            writer = Writer(self._connection, self._ledger, self._numbers, self._tables.by_kind())
            self._packet.open(transaction)
            self._packet.add(self._tables.sentry)
            one = OpenEmrTransaction(self._connection, self._ledger, writer, self._packet, self.site.username)
            self._nobody_waits = False
            try:
                yield one
            finally:
                self._packet.discard()
            self._nobody_waits = one.nobody_waits
            if transaction.is_active:
                transaction.rollback()

    @contextmanager
    def lock_wait(self, seconds: int) -> Iterator[None]:
        """See ports.Target; the session is told at the next transaction."""
        before, self._lock_wait_s = self._lock_wait_s, seconds
        try:
            yield
        finally:
            self._lock_wait_s = before

    def known(self, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of the events (16 bytes each) that the ledger has settled, as committed; nothing is locked."""
        with translated(self._ledger_schema), self._connection.begin():
            return self._ledger.known(self._connection, outbox_ids)

    def settled_or_waiting(self, outbox_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return those that the ledger has settled or keeps in its waiting room; see known."""
        with translated(self._ledger_schema), self._connection.begin():
            return self._ledger.known(self._connection, outbox_ids) | self._ledger.waiting(self._connection, outbox_ids)

    def watermarks(self, keys: Sequence[EntityKey]) -> Mapping[EntityKey, int]:
        """Return the newest seq that each entity has had, as committed; nothing is locked."""
        with translated(self._ledger_schema), self._connection.begin():
            mapped = self._ledger.mapped(self._connection, keys, lock=Lock.NONE)
        return {key: one.last_seq for key, one in mapped.items()}

    def require(self, positions: Sequence[StreamPosition]) -> None:
        """Raise RestoredError unless the ledger is, as committed, where all of these were reached."""
        sql = self._ledger.require_sql(positions)
        if sql is not None:
            with translated(self._ledger_schema), self._connection.begin():
                self._packet.add(sql)

    def releasable(self, limit: int, keys: Sequence[EntityKey] | None) -> Sequence[Event]:
        """See ports.Target."""
        nobody_waits, self._nobody_waits = self._nobody_waits, False
        if keys is not None and nobody_waits:
            return ()  # as the last commit saw: whoever parks later looks again after his own commit
        with translated(self._ledger_schema), self._connection.begin():
            return self._ledger.releasable(self._connection, limit, keys)

    def forget(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """See ports.Target."""
        with translated(self._ledger_schema), self._connection.begin():
            self._ledger.forget(self._connection, outbox_ids)

    def overdue(self, since: dt.datetime, limit: int) -> Sequence[tuple[Event, Waiting]]:
        """See ports.Target; while nothing can come, nothing is late."""
        with translated(self._ledger_schema), self._connection.begin():
            self._packet.add(self._tables.sentry)
            return self._ledger.overdue(self._connection, since, limit)

    def reported_overdue(self, outbox_ids: Sequence[uuid.UUID]) -> None:
        """See ports.Target."""
        with translated(self._ledger_schema), self._connection.begin():
            self._ledger.reported_overdue(self._connection, outbox_ids)

    @contextmanager
    def _reading_again(self) -> Iterator[None]:
        """Ask the gate why it is closed; read columns again when one is gone: the same columns cannot cure it.

        Raises:
            PausedError: somebody works on the site, or an upgrade changed the tables and nobody has accepted that.
            OutdatedError: the tables have been accepted, and drafts of before are of no use.
        """
        try:
            yield
        except RestoredError:
            raise  # no question for the gate
        except PausedError:
            self._tables = self._read_tables(self._tables)
            raise OutdatedError("OpenEMR's tables were accepted anew") from None
        except RefusedError:
            # A column that an upgrade has added or made shorter is no fault of an event.
            self._refresh(REFUSED_MIN_AGE_S)
            raise
        except OutdatedError as error:
            before = self.site.columns
            self._tables = self._read_tables()
            if self.site.columns == before:
                raise MisconfiguredError(str(error)) from None
            raise

    def _refresh(self, older_than_s: float) -> bool:
        if time.monotonic() - self.site.read_at_s < older_than_s:
            return False
        before = self._tables
        self._tables = self._read_tables(before)
        if self._tables.shape != before.shape:
            raise OutdatedError("OpenEMR's tables were accepted anew")
        return True

    def _read_tables(self, before: Tables | None = None) -> Tables:
        """Read the site, and its columns if they are others than before.

        Raises:
            PausedError: see gate.admitted.
        """
        try:
            with translated(self._ledger_schema), self._connection.begin():
                shape = admitted(self._connection, self._ledger_schema)
                columns = before.site.columns if before is not None and before.shape == shape else None
                try:
                    site = read_site(self._connection, self._choices, columns=columns)
                except TablesMissingError as error:
                    if shape is None:
                        raise
                    raise tables_gone(error) from None
                if shape is None:
                    # Only what could be read as a site.
                    shape = read_shape(self._connection)
                    accept(self._connection, self._ledger_schema, shape, FIRST_START, first=True)
                    _log.info("OpenEMR's tables are remembered", action="shape_accepted", version=site.version_text)
        except OutdatedError as error:
            # What is read of a site is the same in all versions: another look would find the same.
            raise MisconfiguredError(str(error)) from None
        return Tables.of(site, shape, self._ledger_schema)

    def _set_session(self) -> None:
        # info belongs to the session: a lost connection's successor begins in the server's zone, with the usual waits.
        info = self._connection.info
        # ON UPDATE columns take the session's zone, and the site's offset changes twice a year.
        offset = utc_offset(self.site.zone, dt.datetime.now(dt.UTC))
        if info.get("time_zone") != offset:
            self._connection.exec_driver_sql("SET time_zone = %s", (offset,))
            info["time_zone"] = offset
        wait_s = self._lock_wait_s
        if info.get("lock_wait_s", LOCK_WAIT_TIMEOUT_S) != wait_s:
            self._connection.exec_driver_sql(
                "SET innodb_lock_wait_timeout = %s, lock_wait_timeout = %s", (wait_s, wait_s)
            )
            info["lock_wait_s"] = wait_s
