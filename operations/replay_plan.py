"""A replay's plan: the exact events, what applying them would do, and how a later look differs from it."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from operations.errors import PlanChangedError, ReplayError
from operations.record_source import Span
from operations.replay_selection import Selection

FORMAT: Final = 1
SAMPLE_MAX: Final = 20
_ID_BYTES: Final = 16
_SHOWN: Final = 3

DUPLICATE: Final = "duplicate"
STALE: Final = "stale"
WRITE: Final = "write"
UNCHANGED: Final = "unchanged"
REWRITE: Final = "rewrite"
WAIT: Final = "wait"
FAIL: Final = "fail"
UNREADABLE: Final = "unreadable"
FATES: Final = (DUPLICATE, STALE, UNCHANGED, WRITE, REWRITE, WAIT, FAIL, UNREADABLE)
"""What would become of an event, in the order in which it is told."""


@dataclasses.dataclass(frozen=True, slots=True)
class SampleChange:
    """What would become of one entity's rows: columns by name, without their values."""

    entity_type: str
    entity_id: str
    is_new: bool
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """What a look at the events has found.

    ids: their outbox ids, 16 bytes each, in the order of the replay; zeros for a record that has none.
    digest: of places, ids and values, so that two looks at other records differ.
    fates: by id, of all but the duplicates; failures: how many by error class and message.
    """

    ids: tuple[bytes, ...]
    digest: str
    counts: Counter[str]
    fates: Mapping[bytes, str]
    failures: Counter[tuple[str, str]]
    sample: tuple[SampleChange, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A forecast, what it was asked for, and where it was read; estimate_s is for applying at full speed."""

    plan_id: str
    made_at: dt.datetime
    made_by: str
    selection: Selection
    source: str
    spans: tuple[Span, ...]
    force_rewrite: bool
    limits_hit: tuple[str, ...]
    estimate_s: float
    forecast: Forecast

    def write(self, path: Path) -> None:
        """Write the plan as a file of JSON, which holds ids and names and no values; an existing one is kept.

        Raises:
            ReplayError: the file cannot be written.
        """
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(self._as_mapping(), file, indent=1)
        except OSError as error:
            raise ReplayError(f"{path}: {error.strerror}") from None

    def _as_mapping(self) -> dict[str, Any]:
        forecast = self.forecast
        return {
            "format": FORMAT,
            "plan_id": self.plan_id,
            "made_at": self.made_at.isoformat(),
            "made_by": self.made_by,
            "selection": self.selection.as_mapping(),
            "source": self.source,
            "spans": [dataclasses.astuple(one) for one in self.spans],
            "force_rewrite": self.force_rewrite,
            "limits_hit": list(self.limits_hit),
            "estimate_s": round(self.estimate_s, 3),
            "events": len(forecast.ids),
            "digest": forecast.digest,
            "counts": dict(forecast.counts),
            "failures": [[*reason, count] for reason, count in sorted(forecast.failures.items())],
            "sample": [dataclasses.asdict(one) for one in forecast.sample],
            "fates": {one.hex(): fate for one, fate in forecast.fates.items()},
            "ids_base64": base64.b64encode(b"".join(forecast.ids)).decode(),
        }


def read_plan(path: Path) -> Plan:
    """Read a plan's file.

    Raises:
        ReplayError: it cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ReplayError(f"{path}: was made by another version; plan again")
        ids = base64.b64decode(found["ids_base64"])
        forecast = Forecast(
            ids=tuple(ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES)),
            digest=found["digest"],
            counts=Counter(found["counts"]),
            fates={bytes.fromhex(one): fate for one, fate in found["fates"].items()},
            failures=Counter({(one[0], one[1]): one[2] for one in found["failures"]}),
            sample=tuple(SampleChange(**{**one, "columns": tuple(one["columns"])}) for one in found["sample"]),
        )
        return Plan(
            plan_id=found["plan_id"],
            made_at=dt.datetime.fromisoformat(found["made_at"]),
            made_by=found["made_by"],
            selection=Selection.of(found["selection"]),
            source=found["source"],
            spans=tuple(Span(*one) for one in found["spans"]),
            force_rewrite=found["force_rewrite"],
            limits_hit=tuple(found["limits_hit"]),
            estimate_s=found["estimate_s"],
            forecast=forecast,
        )
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{path}: is no plan of `emrsync replay plan` ({type(error).__name__})") from None


def check_set(plan: Plan, now: Forecast) -> None:
    """Compare the events with those of the plan.

    Raises:
        PlanChangedError: they are others, and how.
    """
    if plan.forecast.digest == now.digest:
        return
    before, after = Counter(plan.forecast.ids), Counter(now.ids)
    words = [
        f"{sum(some.values())} events {what} ({', '.join(sorted(one.hex() for one in some)[:_SHOWN])})"
        for some, what in ((before - after, "are there no more"), (after - before, "were not there"))
        if some
    ]
    raise PlanChangedError(f"the set has changed: {', '.join(words) or 'places or payloads differ'}; plan again")


def check_fates(plan: Plan, now: Forecast) -> None:
    """Compare what would become of the events with what the plan says.

    Raises:
        PlanChangedError: it is something else by now, and what.
    """
    before, after = plan.forecast.fates, now.fates
    moved: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for one in before.keys() | after.keys():
        pair = before.get(one, DUPLICATE), after.get(one, DUPLICATE)
        if pair[0] != pair[1]:
            moved[pair] += 1
            example.setdefault(pair, one.hex())
    if moved:
        words = [f"{count} would have ended as {a}, now as {b} (such as {example[a, b]})" for (a, b), count in
                 sorted(moved.items())]  # fmt: skip
        raise PlanChangedError(f"OpenEMR or the ledger has changed since the plan: {'; '.join(words)}; plan again")
    if before_sample_differs(plan.forecast, now):
        raise PlanChangedError("OpenEMR's rows have changed since the plan: other columns would be written; plan again")


def before_sample_differs(before: Forecast, now: Forecast) -> bool:
    """Tell whether the entities looked at more closely would be written otherwise."""
    return before.sample != now.sample
