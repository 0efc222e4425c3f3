"""What a member's endpoint tells agrees with both databases."""

from __future__ import annotations

import collections
import os
import uuid
from pathlib import Path
from typing import Final

from connectors.outbox import EntityType
from tests import clinic as made_up
from tests.e2e.clinic_chain import Chain, Row
from tests.e2e.members import member, wait_for
from tests.scraping import free_port, scraped, value

EVENTS: Final = int(os.environ.get("METRICS_EVENTS", "1000"))
"""METRICS_EVENTS=10000 makes it the run of docs/measurements.md; what is compared does not hang on the number."""

FAILING_EVERY: Final = 100


def test_scraped_metrics_agree_with_the_rows_after_a_run_with_failures(clinic: Chain, tmp_path: Path) -> None:
    """One in a hundred fails; every row is counted once, with its outcome and class."""
    run = uuid.uuid4().hex[:12]
    ids = [f"P-{run}-{number}" for number in range(EVENTS)]
    names = {one: "x" * 300 if number % FAILING_EVERY == 0 else "Given" for number, one in enumerate(ids)}
    port = free_port()
    with member({**clinic.variables, "EMRSYNC_METRICS_PORT": str(port)}, tmp_path / "metered.log"):
        clinic.write(*(Row(EntityType.PATIENT, made_up.patient(patient_id=one, given_name=names[one])) for one in ids))
        rows = clinic.wait_settled(ids, limit_s=120)
        seen = collections.Counter((row["outcome"], row["error_class"] or "") for row in rows)
        topic = "emrsync.patient"

        def lag() -> float:
            return sum(
                value(scraped(port), "emrsync_lag_records", topic=topic, partition=str(n)) or 0 for n in range(6)
            )

        wait_for(lambda: lag() == 0, 10, lag)
        samples = scraped(port)

    counted = {
        (labels["outcome"], labels["error_class"]): count
        for (name, pairs), count in samples.items()
        if name == "emrsync_events_total" and count and (labels := dict(pairs))["entity_type"] == "patient"
    }
    failures = EVENTS // FAILING_EVERY
    assert {("applied", ""): EVENTS - failures, ("failed", "too_long"): failures} == dict(seen) == counted
    mapped = clinic.scalar("SELECT COUNT(*) FROM emr_sync.entity_map WHERE entity_id LIKE %s", f"P-{run}-%")
    assert mapped == counted["applied", ""]
    assert value(samples, "emrsync_end_to_end_seconds_count", entity_type="patient") == EVENTS - failures
    assert value(samples, "emrsync_system_up", system="openemr") == 1
    assert value(samples, "emrsync_system_up", system="source") == 1
    assert all(made_up.FAMILY_NAME not in text and run not in text for _name, pairs in samples for _, text in pairs)
