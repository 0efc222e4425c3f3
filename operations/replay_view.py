"""A replay's plan and its end in words: ids, names of columns and reasons, never values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from operations.recovery_ledger import ABORTED, FINISHED, PAUSED, RUNNING, Run
from operations.replay import Ended
from operations.replay_plan import FATES, Plan

_WORDS: Final = {
    "duplicate": "settled before, nothing to do",
    "stale": "older than what OpenEMR has; only the ledger would note them",
    "unchanged": "would be settled and change no row",
    "write": "would write",
    "rewrite": "settled before, but OpenEMR's row differs: would be written again",
    "wait": "would wait for a patient or encounter that is not there",
    "fail": "would fail",
    "unreadable": "are no events",
}


def plan_lines(plan: Plan) -> Iterator[str]:
    """Say what a plan holds."""
    forecast = plan.forecast
    made = f"made {plan.made_at:%Y-%m-%d %H:%M} UTC by {plan.made_by}"
    yield f"{len(forecast.ids):,} events, digest {forecast.digest[:16]}, {made}"
    for fate in FATES:
        if forecast.counts[fate]:
            yield f"{forecast.counts[fate]:>9,} {fate:<11} {_WORDS[fate]}"
    for (error_class, message), count in forecast.failures.most_common():
        yield f"! {count:,} events: {error_class}: {message}"
    for (entity_type, entity_id), columns in forecast.sample.items():
        yield f"  {entity_type} {entity_id}: {'a new row' if columns is None else ', '.join(columns)}"
    for limit in plan.limits_hit:
        yield f"! {limit}"
    yield f"estimated time: {plan.estimate_s:.0f} s at full speed"


def ended_words(ended: Ended, events: int, path: Path) -> str:
    """Say how an apply ended, and what the next step is."""
    counts = ", ".join(f"{word} {count:,}" for word, count in sorted(ended.counts.items()) if count)
    done = f"{ended.done:,} of {events:,} events done: {counts or 'none'}"
    if ended.state == FINISHED:
        return done
    again = f"`emrsync replay apply {path} --why ...` goes on here, `emrsync replay abort {path} --why ...` gives it up"
    if ended.state == PAUSED:
        return f"{done}\npaused; {again}" if ended.reason is None else f"{done}\n! paused: {ended.reason}\n{again}"
    return f"{done}\n! stopped at an error that the plan does not foresee: {ended.reason}\n{again}"


def run_words(run: Run | None, path: Path, *, under_way: bool) -> str:
    """Say how far a plan has come; under_way: somebody is at it right now."""
    again = f"`emrsync replay apply {path} --why ...`"
    if run is None:
        return "an apply of it is checking right now" if under_way else f"not applied yet; {again} does it"
    done = f"{run.done:,} of {run.events:,} events done, last at {run.updated_at:%Y-%m-%d %H:%M:%S} UTC"
    if run.state in {FINISHED, ABORTED}:
        return f"{run.state}: {done}"
    if under_way:
        return f"under way: {done}; Ctrl-C there pauses it"
    how = "killed, or cut off from the ledger" if run.state == RUNNING else run.state
    return f"{how}: {done}; {again} goes on where it ended"
