"""The command `emrsync resync`: what the outbox or the application's tables hold is sent again."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, NoReturn

import typer

from connectors.outbox import EntityType, Status
from operations.config import OperationsSettings
from operations.errors import ResyncError
from operations.failures import FOUND
from operations.recovery_ledger import WHY_CHARACTERS_MAX
from operations.resync import SLICE_ROWS
from operations.resync_ledger import ResyncRun, Way
from operations.resync_operator import EVENTS_PER_S, Operator, run_mapping
from operations.resync_selection import ResyncSelection
from operations.resync_view import open_words

Time = Annotated[dt.datetime | None, typer.Option(parser=dt.datetime.fromisoformat, metavar="TIME")]


def command(
    *,
    entity_type: Annotated[list[EntityType] | None, typer.Option(help="Only these (repeatable).")] = None,
    entity_id: Annotated[list[str] | None, typer.Option(help="Only these entities (repeatable).")] = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only rows that say so now (repeatable).")] = None,
    from_time: Time = None,
    to_time: Time = None,
    from_seq: Annotated[int | None, typer.Option(min=0, help="Only rows from this seq on.")] = None,
    to_seq: Annotated[int | None, typer.Option(min=0, help="Only rows up to this seq.")] = None,
    from_tables: Annotated[
        bool, typer.Option("--from-tables", help="Entities without a row in the outbox, from the application's tables.")
    ] = False,
    every: Annotated[bool, typer.Option("--every", help="From the tables: also entities with a row.")] = False,
    rate: Annotated[float, typer.Option(min=1, help="At most so many events a second.")] = EVENTS_PER_S,
    slice_rows: Annotated[
        int, typer.Option("--slice", min=1, max=1_000, help="Rows at once: fewer, and live events wait less.")
    ] = SLICE_ROWS,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only say what would be done.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the resync that has not ended.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give that resync up.")] = False,
    why: Annotated[str, typer.Option("--why", help="Kept with your name for those who come later.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what a resync would send again, and with --apply do it; exit code 1 when one has not come to its end."""
    _check_deed(apply + resume + abort, why.strip())
    _check(from_tables=from_tables, every=every, of_rows=bool(status) or (from_seq, to_seq) != (None, None))
    selection = ResyncSelection(
        entity_types=tuple(entity_type or ()),
        entity_ids=tuple(entity_id or ()),
        statuses=tuple(status or ()),
        since=from_time,
        until=to_time,
        seq_from=from_seq,
        seq_to=to_seq,
        every=every,
    )
    _check_begun(is_begun=resume or abort, is_chosen=from_tables or selection != ResyncSelection())
    operator = Operator(OperationsSettings.read(), rate, slice_rows, why=why.strip(), as_json=as_json)
    begun = operator.runs.open_run()
    if abort or resume:
        operator.end(begun, abort=abort)
        return
    if begun is not None:
        _refuse_beside(operator, begun, apply=apply)
    run = operator.planned(Way.TABLES if from_tables else Way.OUTBOX, selection, is_answer=not apply)
    if apply and run.events:
        operator.go(run, "started")


def _refuse_beside(operator: Operator, begun: ResyncRun, *, apply: bool) -> NoReturn:
    is_held = operator.is_under_way()
    operator.say(open_words(begun, is_held=is_held), {"run": run_mapping(begun), "under_way": is_held})
    if apply:
        raise ResyncError("go on with that one, or give it up, before another begins")
    raise typer.Exit(FOUND)


def _check(*, from_tables: bool, every: bool, of_rows: bool) -> None:
    if every and not from_tables:
        raise ResyncError("--every: goes with --from-tables")
    if from_tables and of_rows:
        raise ResyncError("--status, --from-seq and --to-seq are about rows of the outbox, not about tables")


def _check_deed(deeds: int, why: str) -> None:
    if deeds > 1:
        raise ResyncError("--apply, --resume and --abort exclude each other")
    if deeds and not 0 < len(why) <= WHY_CHARACTERS_MAX:
        raise ResyncError(f"--why: say why, in 1 to {WHY_CHARACTERS_MAX} characters")


def _check_begun(*, is_begun: bool, is_chosen: bool) -> None:
    if is_begun and is_chosen:
        raise ResyncError("--resume and --abort are about the resync that has begun: leave out what chooses rows")
