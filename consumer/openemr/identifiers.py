"""Where new rows get their numbers: pids from a reserved block, encounter and prescription numbers from sequences."""

from __future__ import annotations

import collections
import hashlib
import uuid
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from connectors.events import EntityKey
from consumer.openemr.statements import select_row
from consumer.ports import MisconfiguredError

PID_BLOCK_SIZE: Final = 100_000
"""Pids reserved at once; OpenEMR gives out those above the block meanwhile."""

PID_GUARD: Final = 100
"""Pids left free above the old maximum, for clerks who have read it and not yet saved."""

PID_LEASE: Final = 5_000
"""Pids one process takes from the block at once, for ten batches; what it does not use is lost, which is harmless."""

SEQUENCE_LEASE: Final = 500
"""Numbers one process takes from OpenEMR's sequence at once, a batch's worth; gaps are harmless."""

NUMBER_MAX: Final = 2**31 - 1
"""Many tables of OpenEMR hold pid and encounter in int(11)."""

# One statement, and so one snapshot: a member's number is below the sequence before its prescription is to be seen.
_PRESCRIBED: Final = """
    SELECT COALESCE((SELECT MAX(id) FROM prescriptions), 0),
      COALESCE((SELECT MAX(id) FROM prescriptions WHERE id BETWEEN %s AND %s), 0),
      COALESCE((SELECT MAX(id) FROM sequences), 0)
"""

_NAMESPACE: Final = uuid.UUID("6f0f3a52-7a43-5d0c-9d53-0c8b8d0f6a11")


def row_uuid(key: EntityKey) -> bytes:
    """Give the uuid of an entity's row: always the same, so FHIR ids survive a rebuilt OpenEMR."""
    # As uuid.uuid5 does it, which takes six times as long.
    name = f"{key.entity_type.value}/{key.entity_id}".encode()
    digest = bytearray(hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


class Numbers:
    """Allocates in short transactions on a connection of its own, so that a clerk never waits for our batch."""

    def __init__(self, engine: sa.Engine, ledger_schema: str) -> None:
        self._connection = engine.connect()
        self._ledger = ledger_schema
        self._pids: collections.deque[int] = collections.deque()
        self._sequence: collections.deque[int] = collections.deque()
        with self._connection.begin():
            encounter = self._connection.exec_driver_sql("SELECT MAX(encounter) FROM form_encounter").scalar()
        self._encounter_max = int(encounter or 0)

    def take_pids(self, count: int, transaction: sa.Connection) -> Sequence[int]:
        """Return `count` free pids; when the block is used up, the caller's transaction opens the next one.

        The first pid returned then is the block's top: the patient inserted with it, in that same transaction, is
        what makes OpenEMR count on from above the block.
        """
        while len(self._pids) < count:
            lease = self._lease_pids(max(PID_LEASE, count - len(self._pids)))
            if not lease:
                return self._open_block(count, transaction)
            self._pids.extend(lease)
        return [self._pids.popleft() for _ in range(count)]

    def take_numbers(self, count: int, *, above: int = 0) -> Sequence[int]:
        """Return `count` numbers of OpenEMR's sequence, all of them higher than `above`.

        Raises:
            MisconfiguredError: the sequence is at its end; it was not moved.
        """
        while self._sequence and self._sequence[0] <= above:
            self._sequence.popleft()
        while len(self._sequence) < count:
            wanted = max(SEQUENCE_LEASE, count - len(self._sequence))
            floor = max(above, self._encounter_max)
            with self._connection.begin():
                # OpenEMR's own statement; GREATEST steps over ids that auto_increment gave out ahead of the sequence.
                self._connection.exec_driver_sql(
                    "UPDATE sequences SET id = LAST_INSERT_ID(GREATEST(id, %s) + %s)", (floor, wanted)
                )
                top = int(self._connection.exec_driver_sql("SELECT LAST_INSERT_ID()").scalar_one())
                _check(top, "the number in sequences")
            self._sequence.extend(range(top - wanted + 1, top + 1))
        return [self._sequence.popleft() for _ in range(count)]

    def take_prescription_ids(self, count: int, transaction: sa.Connection) -> Sequence[int]:
        """Return `count` numbers of the sequence that no prescription has, as the caller's transaction sees them.

        OpenEMR's API lets auto_increment give out the id after the highest, be it in our lease or ahead of the
        sequence. What other members have written is no reason to give a lease up: each would then take a new one
        after every prescription of another, until the numbers end. Raises as take_numbers does.
        """
        lease = (self._sequence[0], self._sequence[-1]) if self._sequence else (1, 0)
        highest, in_lease, sequence = map(int, select_row(transaction, _PRESCRIBED, *lease))
        return self.take_numbers(count, above=highest if highest > sequence else in_lease)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def _lease_pids(self, wanted: int) -> Sequence[int]:
        with self._connection.begin():
            next_id, end_id = self._connection.exec_driver_sql(
                f"SELECT next_id, end_id FROM {self._ledger}.id_block WHERE name = 'pid' FOR UPDATE"  # noqa: S608
            ).one()
            lease = range(int(next_id), min(int(next_id) + wanted, int(end_id)))
            if lease:
                self._connection.exec_driver_sql(
                    f"UPDATE {self._ledger}.id_block SET next_id = %s WHERE name = 'pid'",  # noqa: S608
                    (lease.stop,),
                )
        return lease

    def _open_block(self, count: int, transaction: sa.Connection) -> Sequence[int]:
        next_id, end_id = transaction.exec_driver_sql(
            f"SELECT next_id, end_id FROM {self._ledger}.id_block WHERE name = 'pid' FOR UPDATE"  # noqa: S608
        ).one()
        own = [self._pids.popleft() for _ in range(len(self._pids))]
        if next_id < end_id:
            # Another member opened a block while we waited for its lock.
            first, top, rest = int(next_id), None, count - len(own)
        else:
            highest = int(transaction.exec_driver_sql("SELECT COALESCE(MAX(pid), 0) FROM patient_data").scalar_one())
            first = highest + PID_GUARD + 1
            top = first + max(PID_BLOCK_SIZE, count)
            end_id, rest = top, count - len(own) - 1
            _check(top, "the reserved pid")
        transaction.exec_driver_sql(
            f"UPDATE {self._ledger}.id_block SET next_id = %s, end_id = %s WHERE name = 'pid'",  # noqa: S608
            (first + rest, end_id),
        )
        return [*([] if top is None else [top]), *own, *range(first, first + rest)]


def _check(number: int, name: str) -> None:
    if number > NUMBER_MAX:
        raise MisconfiguredError(f"{name} would pass {NUMBER_MAX}, which OpenEMR's int columns cannot hold")
