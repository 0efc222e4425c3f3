"""Synthetic patients for the sample application, by the Synthea simulator."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from stack.artifacts import SYNTHEA, cache_folder, fetch
from stack.commands import run
from stack.config import StackSettings
from stack.errors import CommandFailedError
from stack.jvm import java
from stack.packages import ensure_packages

# One fixed day for both: what is simulated must depend on the seed, not on the day it runs.
REFERENCE_DAY = "20260101"
PATIENTS_MAX = 1_000_000
SECONDS_PER_PATIENT_MAX = 10
START_LIMIT_S = 300
FILES = ("patients.csv", "encounters.csv", "medications.csv", "procedures.csv", "imaging_studies.csv")


def simulate(folder: Path, *, patients: int, seed: int, report: Callable[[str], None]) -> Path:
    """Write the CSV export of `patients` simulated lives below `folder`, and return the folder `csv` with the files.

    The same seed gives the same files; living patients are counted, so there are somewhat more rows than `patients`.

    Raises:
        ValueError: `patients` is out of bounds.
        CommandFailedError: the simulator failed, or left a file out.
    """
    if not 1 <= patients <= PATIENTS_MAX:
        raise ValueError(f"{patients} patients: 1 to {PATIENTS_MAX:,} are possible")
    ensure_packages({"java", "maven"}, report)
    jars = fetch(SYNTHEA, cache_folder(StackSettings()), report)
    if jars is None:
        raise CommandFailedError("the simulator's jars are not served by the registry at hand")
    csv = folder.absolute() / "csv"
    csv.mkdir(parents=True, exist_ok=True)
    report(f"simulating {patients} patients with seed {seed} into {csv} (about a second each)")
    with tempfile.TemporaryDirectory() as scratch:
        # Its working directory is scratch: it writes logs and caches where it stands.
        run(
            _command(jars, folder.absolute(), patients, seed),
            limit_s=START_LIMIT_S + patients * SECONDS_PER_PATIENT_MAX,
            directory=Path(scratch),
        )
    _require_files(csv)
    return csv


def _command(jars: Path, folder: Path, patients: int, seed: int) -> tuple[str, ...]:
    return java(
        "App",
        *("-p", str(patients)),
        *("-s", str(seed)),
        # clinicians and hospitals by a seed of their own, the same for every population
        *("-cs", "1"),
        *("-r", REFERENCE_DAY),
        *("-e", REFERENCE_DAY),
        "--exporter.csv.export=true",
        "--exporter.fhir.export=false",
        "--exporter.hospital.fhir.export=false",
        "--exporter.practitioner.fhir.export=false",
        # rows in the order of patients, which several threads would shuffle
        "--generate.thread_pool_size=1",
        f"--exporter.baseDirectory={folder}",
        jars=jars,
        options=("-Xmx1g", "-Dfile.encoding=UTF-8", "-Djava.awt.headless=true"),
    )


def _require_files(csv: Path) -> None:
    absent = [name for name in FILES if not (csv / name).is_file() or not (csv / name).stat().st_size]
    if absent:
        raise CommandFailedError(f"the simulator ended well, but {csv} lacks {', '.join(absent)}")
