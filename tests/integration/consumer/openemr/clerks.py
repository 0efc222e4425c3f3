"""Clerks who work in OpenEMR: the statements that its code sends, in its own lax sessions."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pymysql
import sqlalchemy as sa

TAKEN: Final = 1062
LOST: Final = frozenset({1205, 1213})

REPOINTED: Final = (
    ("form_encounter", "pid"),
    ("forms", "pid"),
    ("procedure_order", "patient_id"),
    ("prescriptions", "patient_id"),
)
"""What a merge gives to the other patient, by the column that names him."""


@dataclasses.dataclass
class Diary:
    """What the clerks have met; written by their threads."""

    done: int = 0
    crossed: int = 0
    failed: list[str] = dataclasses.field(default_factory=list)
    merged: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    removed: list[int] = dataclasses.field(default_factory=list)
    waits_s: list[float] = dataclasses.field(default_factory=list)


class Clerk:
    """One session of OpenEMR; does one thing after the other until stopped."""

    def __init__(self, url: sa.URL, database: str, ledger: str, diary: Diary, *, upserts: bool, seed: int) -> None:
        self._connection = pymysql.connect(
            host=url.host or "127.0.0.1",
            port=url.port or 3306,
            user=url.username or "",
            password=str(url.password or ""),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            init_command="SET SESSION sql_mode = ''",
        )
        self._ledger = ledger
        self._diary = diary
        self._upserts = upserts
        self._random = random.Random(seed)
        self._own: list[int] = []

    def work(self, until: threading.Event) -> None:
        """Do things in an order of their own."""
        usual: tuple[Callable[[], None], ...] = (
            self.register_patient,
            self.open_encounter,
            self.prescribe,
            self.edit_forms,
            self.edit_patient,
        )
        rare: tuple[Callable[[], None], ...] = (self.merge, self.remove)
        with self._connection:
            while not until.is_set():
                act = self._random.choice(rare if self._random.random() < 0.02 else usual)
                started = time.perf_counter()
                try:
                    act()
                except pymysql.err.MySQLError as error:
                    number = error.args[0]
                    if number in LOST:
                        self._diary.failed.append(f"{act.__name__}: lock lost ({number})")
                    elif number != TAKEN:
                        raise
                self._diary.waits_s.append(time.perf_counter() - started)
                self._diary.done += 1
                time.sleep(self._random.uniform(0.005, 0.03))

    def register_patient(self) -> None:
        """Take MAX + 1 without a lock, as OpenEMR does, and insert a moment later."""
        pid = self._one("SELECT MAX(pid) + 1 FROM patient_data") or 1
        time.sleep(self._random.uniform(0, 0.003))
        try:
            self._run("INSERT INTO patient_data (pid, pubpid, fname, lname) VALUES (%s, %s, 'C', 'Clerk')", pid, pid)
        except pymysql.err.IntegrityError:
            if self._is_ours(pid):
                self._diary.failed.append(f"pid {pid} was taken by a consumer")
            else:
                self._diary.crossed += 1
            return
        self._own.append(pid)

    def open_encounter(self) -> None:
        """Take a number of the sequence and insert the encounter and its form."""
        if not self._own:
            return
        pid, number = self._random.choice(self._own), self._next()
        row_id = self._run("INSERT INTO form_encounter (pid, encounter, date) VALUES (%s, %s, NOW())", pid, number)
        self._run(
            "INSERT INTO forms (pid, encounter, form_id, formdir, deleted) VALUES (%s, %s, %s, 'newpatient', 0)",
            pid,
            number,
            row_id,
        )

    def prescribe(self) -> None:
        """Save a prescription: an upsert on the number of the sequence from 7.0.4 on, REPLACE before."""
        if not self._own:
            return
        pid, number = self._random.choice(self._own), self._next()
        columns = "(id, patient_id, drug, active, txDate, usage_category_title, request_intent_title)"
        values = "VALUES (%s, %s, 'clerks drug', 1, NOW(), '', '')"
        if self._upserts:
            tail = "ON DUPLICATE KEY UPDATE patient_id = VALUES(patient_id), drug = VALUES(drug)"
            self._run(f"INSERT INTO prescriptions {columns} {values} {tail}", number, pid)
        else:
            self._run(f"REPLACE INTO prescriptions {columns} {values}", number, pid)

    def edit_forms(self) -> None:
        """Save the forms of an encounter that was synced."""
        found = self._row("SELECT pid, encounter FROM forms WHERE user = 'emrsync' ORDER BY RAND() LIMIT 1")
        if found:
            self._run("UPDATE forms SET authorized = 1 - authorized WHERE pid = %s AND encounter = %s", *found)

    def edit_patient(self) -> None:
        """Change a synced patient's contact in a transaction of several statements."""
        pid = self._one(
            f"SELECT local_id FROM {self._ledger}.entity_map WHERE kind = 'patient' ORDER BY RAND() LIMIT 1"
        )
        if pid is not None:
            with self._transaction():
                self._run("UPDATE patient_data SET phone_contact = %s WHERE pid = %s", str(time.time()), pid)
                time.sleep(0.002)
                self._run("UPDATE patient_data SET date = NOW() WHERE pid = %s", pid)

    def merge(self) -> None:
        """Merge a synced patient into another: repoint what hangs on it, then delete it, as merge_patients does."""
        query = "SELECT pid FROM patient_data WHERE lname = 'Victim' ORDER BY RAND() LIMIT 1"
        source, target = self._one(query), self._random.choice(self._own or [0])
        if source is None or not target:
            return
        for table, column in REPOINTED:
            self._run(f"UPDATE {table} SET {column} = %s WHERE {column} = %s", target, source)
        self._run("DELETE FROM patient_data WHERE pid = %s", source)
        self._diary.merged.append((source, target))

    def remove(self) -> None:
        """Delete a synced patient with all that hangs on it, as deleter does."""
        pid = self._one("SELECT pid FROM patient_data WHERE lname = 'Victim' ORDER BY RAND() LIMIT 1")
        if pid is None:
            return
        for table, column in (("prescriptions", "patient_id"), ("forms", "pid"), ("form_encounter", "pid")):
            self._run(f"DELETE FROM {table} WHERE {column} = %s", pid)
        self._run("DELETE FROM patient_data WHERE pid = %s", pid)
        self._diary.removed.append(pid)

    def _next(self) -> int:
        self._run("UPDATE sequences SET id = LAST_INSERT_ID(id + 1)")
        return int(self._one("SELECT LAST_INSERT_ID()"))

    def _is_ours(self, pid: int) -> bool:
        sql = f"SELECT 1 FROM {self._ledger}.entity_map WHERE kind = 'patient' AND local_id = %s"
        return self._one(sql, pid) is not None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.begin()
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def _run(self, sql: str, *values: Any) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return int(cursor.lastrowid or 0)

    def _row(self, sql: str, *values: Any) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchone()

    def _one(self, sql: str, *values: Any) -> Any:
        row = self._row(sql, *values)
        return None if row is None else row[0]
