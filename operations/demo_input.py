"""The patients of the demo: simulated once per number and seed, and kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stack.artifacts import SYNTHEA, cache_folder
from stack.config import StackSettings
from stack.locking import exclusive
from stack.synthea import simulator

_WAIT_LIMIT_S: Final = 1_800.0


def population(*, patients: int, seed: int, report: Callable[[str], None]) -> Path:
    """Return the folder of Synthea's CSV export for these arguments, simulating it at the first call.

    The folder appears whole or not at all, and is kept beside the downloads of the stack.

    Raises:
        StackError: the simulator could not be fetched or failed.
    """
    cache = cache_folder(StackSettings())
    kept = cache / f"population-{_digest()}-p{patients}-s{seed}"
    if kept.is_dir():
        report(f"patients: the {patients} simulated before with seed {seed}")
        return kept
    with exclusive(cache / "population.lock", wait_limit_s=_WAIT_LIMIT_S, report=report):
        if kept.is_dir():
            return kept
        with tempfile.TemporaryDirectory(dir=cache, prefix=".population-") as scratch:
            made = Path(scratch) / "export"
            simulator.simulate(made, patients=patients, seed=seed, report=report)
            made.rename(kept)
    return kept


def _digest() -> str:
    """Change when the simulator's version does, or what it is asked for."""
    asked = Path(simulator.__file__).read_bytes()
    return hashlib.sha256(SYNTHEA.digest.encode() + asked).hexdigest()[:12]
