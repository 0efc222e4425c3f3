"""A replay's plan as a file of JSON, which is there as a whole or not at all."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from operations.errors import ReplayError
from operations.record_source import Span
from operations.replay_forecast import PRINT_BYTES
from operations.replay_plan import EntityName, Forecast, Plan
from operations.replay_selection import Selection

FORMAT: Final = 2
_ID_BYTES: Final = 16


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Callable[[str], object]]:
    """Give what writes into a file that has its name only when the block has ended well; an existing one is kept.

    Raises:
        ReplayError: it is there already, or cannot be written; before the block where that can be known.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with _told(path):
        if path.exists():
            raise ReplayError(f"{path}: is there already; name another file, or remove it")
        # From the beginning, so that nobody waits for a plan that has no place.
        file = part.open("x", encoding="utf-8")

    def write(text: str) -> None:
        with _told(path):
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    try:
        yield write
        with _told(path):
            if path.exists():
                raise ReplayError(f"{path}: has come meanwhile and is kept; plan again")
            part.replace(path)
    finally:
        file.close()
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}") from None


def plan_text(plan: Plan) -> str:
    """Give a plan as JSON: ids, names and reasons, and no values."""
    return json.dumps(_mapping(plan), indent=1)


def read_plan(path: Path) -> Plan:
    """Read a plan's file.

    Raises:
        ReplayError: it cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ReplayError(f"{path}: was made by another version; plan again")
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
            forecast=_forecast(found),
        )
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{path}: is no plan of `emrsync replay plan` ({type(error).__name__})") from None


def _mapping(plan: Plan) -> dict[str, Any]:
    forecast = plan.forecast
    return {
        "format": FORMAT,
        "plan_id": plan.plan_id,
        "made_at": plan.made_at.isoformat(),
        "made_by": plan.made_by,
        "selection": plan.selection.as_mapping(),
        "source": plan.source,
        "spans": [dataclasses.astuple(one) for one in plan.spans],
        "force_rewrite": plan.force_rewrite,
        "limits_hit": list(plan.limits_hit),
        "estimate_s": round(plan.estimate_s, 3),
        "events": len(forecast.ids),
        "digest": forecast.digest,
        "counts": dict(forecast.counts),
        "failures": [[*reason, count] for reason, count in sorted(forecast.failures.items())],
        "changes": [[*name, "new" if columns is None else list(columns)] for name, columns in forecast.changes.items()],
        "fates": {one.hex(): fate for one, fate in forecast.fates.items()},
        "ids_base64": base64.b64encode(b"".join(forecast.ids)).decode(),
        "prints_base64": base64.b64encode(b"".join(forecast.prints)).decode(),
    }


def _forecast(found: dict[str, Any]) -> Forecast:
    changes: dict[EntityName, tuple[str, ...] | None] = {
        (entity_type, entity_id): None if columns == "new" else tuple(columns)
        for entity_type, entity_id, columns in found["changes"]
    }
    return Forecast(
        ids=_cut(found["ids_base64"], _ID_BYTES),
        prints=_cut(found["prints_base64"], PRINT_BYTES),
        digest=found["digest"],
        counts=Counter(found["counts"]),
        fates={bytes.fromhex(one): fate for one, fate in found["fates"].items()},
        failures=Counter({(one[0], one[1]): one[2] for one in found["failures"]}),
        changes=changes,
    )


def _cut(text: str, size: int) -> tuple[bytes, ...]:
    joined = base64.b64decode(text)
    return tuple(joined[at : at + size] for at in range(0, len(joined), size))
