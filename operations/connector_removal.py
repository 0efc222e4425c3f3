"""Taking a connector's positions, or all of it, away, and saying first what will come of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from connectors.connect_client import ConnectClient, ConnectorStatus
from connectors.connect_errors import ConnectorAbsentError, ConnectorNotRunningError
from connectors.outbox import Status, sync_outbox
from operations.config import OperationsSettings
from operations.engines import source
from operations.errors import ConnectorGuardError
from operations.source_log import SlotReader, SourceLog, cdc_engine

Report = Callable[[str], None]

STOP_LIMIT_S: Final = 30.0
_POLL_S: Final = 0.25


def unfinished_rows(settings: OperationsSettings) -> dict[str, int]:
    """Count the outbox rows that a snapshot would send, by status."""
    counting = (
        sa.select(sync_outbox.c.status, sa.func.count())
        .where(sync_outbox.c.status != Status.DONE.value)
        .group_by(sync_outbox.c.status)
    )
    with source(settings).connect() as connection:
        return {str(status): int(rows) for status, rows in connection.execute(counting)}


def words_of_reset(settings: OperationsSettings) -> str:
    """Say in words what comes again when positions are forgotten."""
    counts = unfinished_rows(settings)
    listed = ", ".join(f"{rows:,} {status}" for status, rows in sorted(counts.items())) or "none at present"
    return (
        f"The connector {settings.connector_name} is stopped, forgets its positions, and starts with a snapshot:\n"
        f"every outbox row that is not done is sent again, in order ({listed}).\n"
        "What OpenEMR has already settles as duplicate or stale and changes nothing; failed rows are tried again.\n"
        "Rows that are done are not sent. Events committed meanwhile are sent too; some may come twice."
    )


def words_of_removal(settings: OperationsSettings) -> str:
    """Say in words what goes and what stays when the connector is removed."""
    counts = unfinished_rows(settings)
    pending = counts.get(Status.PENDING.value, 0)
    return (
        f"The connector {settings.connector_name}, its positions and, on PostgreSQL, the slot {settings.cdc_slot} are"
        " removed.\n"
        f"No event leaves the outbox any more; {pending:,} rows are pending. Applied again, it sends every row that is"
        " not done.\n"
        "Topics, publication, accounts and tables stay; they keep no log of the source."
    )


def stop(client: ConnectClient, name: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Stop a connector and wait until it has no task left, so that nothing reads or writes positions.

    Raises:
        ConnectorNotRunningError: it has not stopped within STOP_LIMIT_S seconds.
    """
    client.stop(name)
    deadline_s = time.monotonic() + STOP_LIMIT_S
    while (seen := client.status(name)).state != "STOPPED" or seen.tasks:
        if time.monotonic() > deadline_s:
            raise ConnectorNotRunningError(f"connector {name} does not stop ({seen.summary}); see the worker's log")
        sleep(_POLL_S)


def reset_offsets(settings: OperationsSettings, client: ConnectClient, *, report: Report) -> ConnectorStatus:
    """Stop, forget positions, drop a slot that is lost, resume, and wait until it runs.

    A step that fails leaves the connector stopped; running it again goes on.
    """
    name = settings.connector_name
    stop(client, name)
    report(f"connector {name}: stopped")
    slot = _slot(settings)
    if slot is not None and slot.lost:
        drop_slot(settings, report=report)
    client.delete_offsets(name)
    report(f"connector {name}: positions forgotten")
    client.resume(name)
    return client.wait_running(name)


def remove(settings: OperationsSettings, client: ConnectClient, *, report: Report) -> None:
    """Remove connector, positions and slot; what is gone already is passed over, so that it can be run again."""
    name = settings.connector_name
    try:
        stop(client, name)
        client.delete_offsets(name)
        client.delete(name)
        report(f"connector {name}: removed, with its positions")
    except ConnectorAbsentError:
        report(f"connector {name}: there is none")
    drop_slot(settings, report=report)


def drop_slot(settings: OperationsSettings, *, report: Report, sleep: Callable[[float], None] = time.sleep) -> None:
    """Drop the replication slot, by the connector's own account, once nobody reads it; nothing on MySQL and MariaDB.

    Raises:
        ConnectorGuardError: somebody still reads it.
    """
    if settings.database_url("source_url").get_backend_name() != "postgresql":
        report("MySQL and MariaDB keep nothing for a connector: binlogs go by their own age")
        return
    named = {"name": settings.cdc_slot}
    with cdc_engine(settings).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deadline_s = time.monotonic() + STOP_LIMIT_S
        asked = sa.text("SELECT active_pid FROM pg_replication_slots WHERE slot_name = :name")
        while (found := connection.execute(asked, named).one_or_none()) is not None and found[0] is not None:
            if time.monotonic() > deadline_s:
                raise ConnectorGuardError(
                    f"slot {settings.cdc_slot} is read by the server process {found[0]}: find out whose connector"
                    " that is, remove it, and run this again"
                )
            sleep(_POLL_S)
        if found is None:
            report(f"slot {settings.cdc_slot}: there is none")
            return
        connection.execute(sa.text("SELECT pg_drop_replication_slot(:name)"), named)
        report(f"slot {settings.cdc_slot}: dropped")


def _slot(settings: OperationsSettings) -> SourceLog | None:
    if settings.database_url("source_url").get_backend_name() != "postgresql":
        return None
    return SlotReader(settings).read(sample_s=0.0)
