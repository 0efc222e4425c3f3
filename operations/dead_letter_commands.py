"""The commands of `emrsync dead-letter`."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from operations.config import OperationsSettings
from operations.dead_letters import DeadLetter, DeadLetterBox, Replay, State
from operations.failures import FOUND, WRONG_USE

app = typer.Typer(no_args_is_help=True)

LetterId = Annotated[str, typer.Argument(help="The letter's id, such as 0-17; `list` shows them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def show_list(
    state: Annotated[State | None, typer.Option("--state", help="Only these; all when left out.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, the newest.")] = 50,
    scan_max: Annotated[int, typer.Option("--scan-max", min=1, help="Look through so many at most.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first; exit code 1 when one of those shown is undecided."""
    letters, complete = _box().newest(limit=limit, state=state, scan_max=scan_max)
    if as_json:
        shown = {"dead_letters": [_mapping(one) for one in letters], "complete": complete}
        typer.echo(json.dumps(shown, indent=2))
    else:
        Console().print(_table(letters))
        if not complete:
            typer.echo("there may be more: see --limit and --scan-max")
    if any(one.state is State.UNDECIDED for one in letters):
        raise typer.Exit(FOUND)


@app.command()
def show(
    letter_id: LetterId,
    payload: Annotated[bool, typer.Option("--payload", help="The payload too: it holds health data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: reason, source, key, headers, and what was decided; the payload only when asked for."""
    letter = _box().letter(letter_id)
    shown = {
        **_mapping(letter),
        "key": _text(letter.record.key),
        "value_bytes": None if letter.record.value is None else len(letter.record.value),
        "headers": [[name, _text(value)] for name, value in letter.record.headers],
    }
    if payload:
        shown |= _payload(letter.record.value)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    headers = shown.pop("headers")
    for name, value in shown.items():
        typer.echo(f"{name:<16} {'' if value is None else _printable(str(value))}")
    for name, value in headers:
        typer.echo(f"header {_printable(name):<16} {'(absent)' if value is None else value}")


@app.command()
def replay(
    letter_id: Annotated[str | None, typer.Argument(help="The letter's id, such as 0-17.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every undecided one, oldest first.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Although something was decided before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Put records back into their topics, where the group reads them; exit code 1 when one is still no event."""
    if (letter_id is None) is not every or (every and again):
        typer.echo("error: give either one id (and --again where it is meant), or --all", err=True)
        raise typer.Exit(WRONG_USE)
    box = _box()
    tried = box.replay_undecided(dry_run=dry_run) if letter_id is None else _one(box, letter_id, again, dry_run)
    replayed = refused = 0
    for one in tried:
        replayed += one.refusal is None
        refused += one.refusal is not None
        typer.echo(_told(one, dry_run=dry_run), err=one.refusal is not None)
    if every:
        typer.echo(f"{replayed} {'would be ' if dry_run else ''}replayed, {refused} refused")
    if refused:
        raise typer.Exit(FOUND)


@app.command()
def discard(
    letter_id: LetterId,
    why: Annotated[str, typer.Option("--why", help="Kept with your name for those who come later; no patient data.")],
) -> None:
    """Decide that nothing will be done about a dead letter; it stays where it is until its topic drops it."""
    box = _box()
    letter = box.letter(letter_id)
    box.discard(letter, why)
    typer.echo(f"{letter_id}: discarded")


def _box() -> DeadLetterBox:
    return DeadLetterBox(OperationsSettings.read())


def _one(box: DeadLetterBox, letter_id: str, again: bool, dry_run: bool) -> tuple[Replay]:
    return (box.replay(box.letter(letter_id), again=again, dry_run=dry_run),)


def _told(one: Replay, *, dry_run: bool) -> str:
    if one.refusal is not None:
        return f"{one.letter.letter_id}: not replayed: {one.refusal}"
    return f"{one.letter.letter_id}: {'would be replayed' if dry_run else 'replayed'} to {one.letter.record.topic}"


def _mapping(letter: DeadLetter) -> dict[str, Any]:
    record, action = letter.record, letter.action
    return {
        "id": letter.letter_id,
        "state": letter.state.value,
        "reason": _printable(letter.reason),
        "parked_at": None if letter.parked_at is None else letter.parked_at.isoformat(timespec="seconds"),
        "topic": _printable(record.topic),
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "decided": None if action is None else _printable(str(action)),
    }


def _table(letters: tuple[DeadLetter, ...]) -> Table:
    table = Table(box=None)
    for heading in ("id", "parked at", "state", "from", "reason"):
        table.add_column(heading, overflow="fold")
    for one in map(_mapping, letters):
        place = f"{one['topic']} {one['partition']}-{one['offset']}"
        # As Text, since brackets in a plain string are rich's own language.
        table.add_row(
            *(Text(str(one[name] or "")) for name in ("id", "parked_at", "state")), Text(place), Text(one["reason"])
        )
    return table


def _payload(value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {"payload": None}
    try:
        return {"payload": value.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(value).decode()}


def _text(value: bytes | None) -> str | None:
    return None if value is None else _printable(value.decode("utf-8", "backslashreplace"))


def _printable(text: str) -> str:
    """Escape what would move a terminal's cursor: anybody may have written it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
