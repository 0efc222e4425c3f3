"""Payloads to columns: which field goes where, in which words, and whether this site can hold it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from connectors.events import EntityKey
from consumer.openemr.codes import FieldError
from consumer.openemr.site import Site, Width
from consumer.openemr.statements import Values
from consumer.outcome import ErrorClass

Read: TypeAlias = Callable[[Any], Any]

NO_VALUES: Final = Values(())

DATE_MIN: Final = dt.date(1000, 1, 1)
"""First day of the range MariaDB and MySQL state for DATE and DATETIME."""

EXTERNAL_ID_CHARACTERS_MAX: Final = 20
"""Width of every external_id; the column is a courtesy to people, the entity map is the key."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One column and the payload field it comes from; of several columns the first this version has is used.

    Without columns, the outcome says that the field was left out.
    """

    name: str
    columns: Sequence[str]
    read: Read
    absent: Any = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RowDraft:
    """The columns of one entity: its own row's, and for a diagnostic order its line's.

    dated: local time for the forms row; detail: remarks; content_hash: of what OpenEMR's row is to hold, so that
    another spelling of the same payload is no change.
    """

    kind: str
    values: Values
    parents: Sequence[EntityKey]
    line: Values = NO_VALUES
    dated: dt.datetime | None = None
    detail: str | None = None
    content_hash: bytes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Take the digest once; it is asked for up to three times."""
        content = repr((self.kind, self.values.sql, self.line.sql, self.dated, self.parents))
        object.__setattr__(self, "content_hash", hashlib.blake2b(content.encode(), digest_size=16).digest())


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """The columns of one table that we write on this site, in order, each with its reader and width."""

    table: str
    columns: tuple[str, ...]
    _readers: tuple[tuple[str, Read, Any, int, bool, Width | None], ...]
    _without_column: tuple[tuple[str, Read], ...]

    def values(self, payload: Any) -> Values:
        """Read the values, and write them as SQL.

        Raises:
            FieldError: a value is longer than its column or has a character that it cannot hold, or a reader refused.
        """
        values = []
        for name, read, absent, limit, in_bytes, narrow in self._readers:
            value = read(payload)
            if value is None:
                value = absent
            elif limit and len(value.encode() if in_bytes else value) > limit:
                raise self._too_long(name, value, limit, in_bytes=in_bytes)
            elif narrow is not None and not narrow.holds(value):
                raise self._no_character(name, narrow)
            values.append(value)
        return Values(values)

    def remark(self, payload: Any) -> str | None:
        """Name the fields that the payload has and this version of OpenEMR has no column for; None for none."""
        left_out = [name for name, read in self._without_column if read(payload) is not None]
        return f"{', '.join(left_out)}: this version of OpenEMR has no column for it" if left_out else None

    def _no_character(self, name: str, narrow: Width) -> FieldError:
        place = f"{self.table}.{self._column_of(name)}"
        message = f"{name}: has a character that OpenEMR's {place} cannot hold (character set {narrow.charset})"
        return FieldError(ErrorClass.REFUSED, message)

    def _column_of(self, name: str) -> str:
        return self.columns[[reader[0] for reader in self._readers].index(name)]

    def _too_long(self, name: str, value: str, limit: int, *, in_bytes: bool) -> FieldError:
        column = self._column_of(name)
        size = f"{len(value.encode())} bytes" if in_bytes else f"{len(value)} characters"
        message = f"{name}: has {size}, OpenEMR's {self.table}.{column} holds {limit}"
        return FieldError(ErrorClass.TOO_LONG, message)


def shape(site: Site, table: str, fields: Sequence[Field]) -> Shape:
    """Keep the fields whose column this version has, and take widths and character sets from its schema."""
    have = site.columns[table]
    columns: list[str] = []
    readers: list[tuple[str, Read, Any, int, bool, Width | None]] = []
    without: list[tuple[str, Read]] = []
    for field in fields:
        column = next((name for name in field.columns if name in have), None)
        if column is None:
            without.append((field.name, field.read))
            continue
        width = have[column] or Width(0, in_bytes=False)
        narrow = None if width.charset == "utf8mb4" else width
        columns.append(column)
        readers.append((field.name, field.read, field.absent, width.limit, width.in_bytes, narrow))
    carried = {reader[0] for reader in readers}
    left_out = tuple((name, read) for name, read in without if name not in carried)
    return Shape(table, tuple(columns), tuple(readers), left_out)


def checked_date(name: str, value: dt.date | None) -> dt.date | None:
    """Return the date; raise FieldError when the database's DATE does not reach back so far."""
    if value is not None and value < DATE_MIN:
        raise FieldError(ErrorClass.REFUSED, f"{name}: is before {DATE_MIN}, which OpenEMR's dates cannot hold")
    return value


def local_time(site: Site, name: str, value: dt.datetime | None) -> dt.datetime | None:
    """Return the site's local time of an instant, to the second as OpenEMR's datetime columns hold it."""
    if value is None:
        return None
    try:
        local = value.astimezone(site.zone).replace(tzinfo=None, microsecond=0)
    except OverflowError:
        raise FieldError(ErrorClass.REFUSED, f"{name}: is out of range") from None
    checked_date(name, local.date())
    return local


def external_id(value: str) -> str | None:
    """Return an id where OpenEMR's column can hold it whole; a cut id would be another id."""
    return value if len(value) <= EXTERNAL_ID_CHARACTERS_MAX else None


def provider(site: Site, npi: str | None) -> tuple[int, str | None]:
    """Return users.id by NPI (0 for none), and a remark when the site does not know the NPI."""
    if npi is None:
        return 0, None
    known = site.providers.get(npi)
    return (0, "provider_npi: no user of OpenEMR has it; written without provider") if known is None else (known, None)


def remarks(*found: str | None) -> str | None:
    """Join remarks; None when there is none."""
    return "; ".join(remark for remark in found if remark) or None


NO_CONSTANTS: Final[Mapping[str, str]] = {}
