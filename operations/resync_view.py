"""A resync's look, state and end in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from operations.recovery_ledger import FINISHED, PAUSED, RUNNING
from operations.resync import Ended, Looked
from operations.resync_ledger import ResyncRun

_NEXT = "`emrsync resync --resume --why ...` goes on there, `emrsync resync --abort --why ...` gives it up"


def outbox_lines(looked: Looked, events_per_s: float) -> Iterator[str]:
    """Say which rows would be sent again."""
    for (entity_type, status), count in sorted(looked.counts.items()):
        yield f"{count:>9,} {entity_type} {status}"
    if looked.oldest is None or looked.newest is None:
        yield "no row of the outbox is meant; what was purged from it is told again by --from-tables"
        return
    yield f"made from {looked.oldest:%Y-%m-%d %H:%M:%S} to {looked.newest:%Y-%m-%d %H:%M:%S} UTC"
    yield (
        f"{looked.rows:,} rows are sent again by the connector, in at least"
        f" {looked.rows / events_per_s:.0f} s at {events_per_s:g} a second;"
        " what is settled already is a duplicate, and changes nothing in OpenEMR"
    )


def tables_lines(counts: Counter[str], events_per_s: float) -> Iterator[str]:
    """Say which entities would be told again."""
    for entity_type, count in counts.items():
        if count:
            yield f"{count:>9,} {entity_type}"
    if not counts.total():
        yield "no entity is meant; --every means also those that have a row in the outbox"
        return
    yield (
        f"{counts.total():,} entities get a new event with their full state, in at least"
        f" {counts.total() / events_per_s:.0f} s at {events_per_s:g} a second;"
        " what OpenEMR has as it is, it keeps as it is"
    )


def open_words(run: ResyncRun, *, is_held: bool | None = None) -> str:
    """Say where a resync is that has not ended; is_held: whether somebody is at it right now, None if nobody asked."""
    words = {
        True: "under way",
        False: "not under way any more: it was cut off, or was killed",
        None: "under way, or was killed",
    }
    state = words[is_held] if run.state == RUNNING or is_held else run.state
    under_way = run.place.get("slice")
    within = f", {len(under_way['seqs'])} more were under way" if under_way else ""
    return (
        f"a resync from the {run.way} is {state}: {run.done:,} of {run.events:,} events done{within},"
        f" last at {run.updated_at:%Y-%m-%d %H:%M:%S} UTC\n{_NEXT}"
    )


def ended_words(ended: Ended, run: ResyncRun) -> str:
    """Say how it ended, and what the next step is."""
    done = f"{ended.done:,} of {run.events:,} events sent again"
    if ended.state == FINISHED:
        return done if ended.reason is None else f"{done}\n! {ended.reason}"
    reason = "" if ended.reason is None else f": {ended.reason}"
    word = "paused" if ended.state == PAUSED else "! stopped"
    return f"{done}\n{word}{reason}\n{_NEXT}"
