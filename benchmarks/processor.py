"""Which part of a machine's processor time each of some programs took, by /proc."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS: Final = (3, 4)  # idle, and idle because a disk is waited for


class Processor:
    """Programs with all their descendants, watched from now on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._begun_s = time.monotonic()
        self._before = self._now()

    def cores(self) -> Mapping[str, float]:
        """Return the cores that each took since the beginning, and `others` and `idle` of the rest of the machine."""
        seconds = time.monotonic() - self._begun_s
        taken = {name: (now_s - self._before[name]) / seconds for name, now_s in self._now().items()}
        busy, idle = taken.pop("_busy"), taken.pop("_idle")
        return {**taken, "others": max(0.0, busy - sum(taken.values())), "idle": idle}

    def _now(self) -> Mapping[str, float]:
        found = {name: _tree_s(pid) for name, pid in self._pids.items()}
        fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
        idle = sum(fields[index] for index in _IDLE_FIELDS)
        return {**found, "_busy": (sum(fields) - idle) / _TICKS_PER_S, "_idle": idle / _TICKS_PER_S}


def _tree_s(pid: int) -> float:
    """Return the processor time of a process, its descendants, and those of them that have ended."""
    total_s = 0.0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total_s = sum(int(field) for field in fields[11:15]) / _TICKS_PER_S
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total_s += sum(_tree_s(int(child)) for child in children.read_text(encoding="ascii").split())
    return total_s
