"""OpenEMR's server comes back from a backup while the application goes on, and ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from stack import Stack
from tests.backups import dump, restore
from tests.chaos.arena import Arena, arena
from tests.chaos.checker import LEDGER, Checker
from tests.chaos.outage import EVENTS_PER_S, REST_LIMIT_S, load_for
from tests.e2e.members import wait_for

WORK_S: Final = 3.0
"""Of the load, before the backup, after it and after the restore."""

COMMAND_LIMIT_S: Final = 120.0


def resume(opened: Arena, *options: str) -> str:
    """Run the operator's command, and give what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "operations", "resume", "--from-ledger", *options],
        env={**os.environ, **opened.variables},
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_restore_under_load_ends_as_if_it_had_not_been(breakable: Stack, tmp_path: Path) -> None:
    """The application never stops: the rows after the backup come again, those of the time without members too."""
    backup = tmp_path / "backup.sql"
    with arena(breakable, tmp_path) as opened, contextlib.closing(Checker(opened.variables)) as checker:
        admin_url = opened.variables["EMRSYNC_OPENEMR_ADMIN_URL"]
        database = sa.make_url(admin_url).database
        assert database is not None
        with load_for(opened, checker, events_per_s=EVENTS_PER_S, seed=1).running() as written:
            time.sleep(WORK_S)
            dump(admin_url, [database, LEDGER], backup)
            dumped_s = time.monotonic()
            time.sleep(WORK_S)
            settled = done(checker)
            opened.members.stop(0)
            opened.members.stop(1)
            restore(admin_url, backup)
            lost = settled - done_in_ledger(opened, checker)
            said = resume(opened, "--yes", "--why", "the disk broke")
            restored_s = time.monotonic()
            opened.members.start(0)
            opened.members.start(1)
            wait_for(lambda: checker.oldest_unfinished_s() < WORK_S, REST_LIMIT_S, checker.statuses)
            time.sleep(WORK_S)
        checker.wait_at_rest(REST_LIMIT_S)

        assert lost > 0, "the backup was not older than what had been applied"
        assert "missing" in said
        assert written.lost == 0
        assert written.commits_between(dumped_s, restored_s) > 0
        assert [] == checker.violations(at_rest=True, restored=True)
        assert {"done"} == {name.split()[0] for name in checker.statuses()}
        assert 0 == sum(row["retry_count"] for row in checker.rows())


def done(checker: Checker) -> int:
    """Count the rows that say done."""
    return sum(row["status"] == "done" for row in checker.rows())


def done_in_ledger(opened: Arena, checker: Checker) -> int:
    """Count the events that the ledger has settled."""
    with opened.clerk.connect() as connection:
        sql = f"SELECT COUNT(*) FROM {LEDGER}.applied_event WHERE seq > %s"
        return int(connection.exec_driver_sql(sql, (checker.after,)).scalar_one())
