"""What one OpenEMR site looks like: version, columns and widths, option lists, people, places, time zone."""

from __future__ import annotations

import dataclasses
import time
import zoneinfo
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

import sqlalchemy as sa

from consumer.openemr.behaviour import SERVICE_REQUEST
from consumer.openemr.chart import chart_tables
from consumer.openemr.codes import Codes, Options
from consumer.ports import MisconfiguredError

TABLES: Final = (
    "patient_data",
    "form_encounter",
    "forms",
    "procedure_order",
    "procedure_order_code",
    "procedure_type",
    "prescriptions",
    "uuid_registry",
    "sequences",
)
"""The tables we write; everything else of OpenEMR is only read."""

OPTION_LISTS: Final = (
    "sex",
    "marital",
    "language",
    "race",
    "ethnicity",
    "_ActEncounterCode",
    "ord_status",
    "ord_priority",
    "order_type",
    "drug_route",
    "drug_form",
    "drug_units",
    "medication-usage-category",
    "medication-request-intent",
)

_BYTE_TEXTS: Final = frozenset({"tinytext", "text", "mediumtext", "longtext"})


@dataclasses.dataclass(frozen=True, slots=True)
class Width:
    """What a text column holds at most; TEXT types count bytes, others characters."""

    limit: int
    in_bytes: bool
    charset: str = "utf8mb4"

    def holds(self, text: str) -> bool:
        """Tell whether the column's character set has all of the text's characters; one unknown to us is not asked."""
        if self.charset in _UTF8MB3:
            return max(text, default="") <= _LAST_OF_UTF8MB3
        codec = _CODECS.get(self.charset)
        if codec is None:
            return True
        try:
            text.encode(codec)
        except UnicodeEncodeError:
            return False
        return True


_UTF8MB3: Final = frozenset({"utf8", "utf8mb3"})  # servers differ in the name
_LAST_OF_UTF8MB3: Final = "\uffff"
_CODECS: Final = {"latin1": "cp1252", "ascii": "ascii"}  # the servers' latin1 is Windows' code page


Columns: TypeAlias = Mapping[str, Mapping[str, Width | None]]


@dataclasses.dataclass(frozen=True, slots=True)
class SiteChoices:
    """What an operator may choose.

    username: the users row that our rows name; time_zone: IANA name, wins over OpenEMR's own setting;
    facility: of encounters that name none, by name, OpenEMR's primary one if None; fallbacks: see codes.Codes;
    patient_removal: a patient's delete removes the row, if nothing hangs on it, instead of keeping the chart.
    """

    username: str
    time_zone: str | None = None
    facility: str | None = None
    fallbacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    patient_removal: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """A snapshot of the site; read again when an event names something it does not hold."""

    version: tuple[int, int, int]
    columns: Columns
    options: Options
    codes: Codes
    categories: frozenset[int]
    facilities: Mapping[str, int]
    default_facility_id: int
    default_facility_name: str
    providers: Mapping[str, int]
    user_id: int
    username: str
    groupname: str
    zone: zoneinfo.ZoneInfo
    chart_tables: Sequence[str]
    read_at_s: float

    @property
    def has_service_request(self) -> bool:
        """Tell whether the FHIR API has ServiceRequest."""
        return SERVICE_REQUEST.shown_by(self.version, self.columns)

    @property
    def version_text(self) -> str:
        """Name the version for a person."""
        return "of unknown version" if self.version == (0, 0, 0) else ".".join(str(part) for part in self.version)


class TablesMissingError(MisconfiguredError):
    """Tables that we write are not there: this is no OpenEMR, or somebody replaces them at this moment."""

    def __init__(self, tables: Sequence[str]) -> None:
        super().__init__(f"this is no OpenEMR database: it has no table {', '.join(tables)}")
        self.tables = tables


def require_tables(found: Collection[str]) -> None:
    """Raise TablesMissingError unless all tables that we write are among those found."""
    missing = [table for table in TABLES if table not in found]
    if missing:
        raise TablesMissingError(missing)


def read_site(connection: sa.Connection, choices: SiteChoices, *, columns: Columns | None = None) -> Site:
    """Read the site.

    columns: those of an earlier reading, for drafts made with them; None reads them.

    Raises:
        MisconfiguredError: the database is no OpenEMR (TablesMissingError), or lacks what a writer needs.
    """
    columns = columns or _columns(connection)
    require_tables(columns)
    site_settings = _globals(connection)
    if site_settings.get("full_new_patient_form") == "0":
        message = (
            "OpenEMR's global full_new_patient_form is 0: its old static form replaces patients by pid "
            "and could overwrite ours; set it to 1 (Administration, Config, Features) and start again"
        )
        raise MisconfiguredError(message)
    facilities = {str(name): int(key) for key, name in connection.exec_driver_sql(_FACILITIES)}
    default_id, default_name = _default_facility(connection, choices.facility, facilities)
    options = _options(connection)
    version = connection.exec_driver_sql("SELECT v_major, v_minor, v_patch FROM version").one_or_none() or (0, 0, 0)
    return Site(
        version=(int(version[0]), int(version[1]), int(version[2])),
        columns=columns,
        options=options,
        codes=Codes(options, choices.fallbacks),
        categories=frozenset(
            int(row[0]) for row in connection.exec_driver_sql("SELECT pc_catid FROM openemr_postcalendar_categories")
        ),
        facilities=facilities,
        default_facility_id=default_id,
        default_facility_name=default_name,
        providers={str(npi): int(key) for key, npi in connection.exec_driver_sql(_PROVIDERS)},
        user_id=_user_id(connection, choices.username),
        username=choices.username,
        groupname=_groupname(connection),
        zone=_zone(choices.time_zone or site_settings.get("gbl_time_zone")),
        chart_tables=chart_tables(connection) if choices.patient_removal else (),
        read_at_s=time.monotonic(),
    )


_FACILITIES: Final = "SELECT id, name FROM facility ORDER BY id DESC"  # of equal names the oldest wins
_PROVIDERS: Final = "SELECT id, npi FROM users WHERE npi IS NOT NULL AND npi <> '' ORDER BY active, id DESC"


def _columns(connection: sa.Connection) -> Columns:
    found: dict[str, dict[str, Width | None]] = {}
    rows = connection.exec_driver_sql(
        "SELECT table_name, column_name, data_type, character_maximum_length, character_set_name "
        "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN %s",
        (TABLES,),
    )
    for table, column, kind, length, charset in rows:
        width = None
        if length is not None and charset is not None:
            width = Width(int(length), str(kind).lower() in _BYTE_TEXTS, str(charset).lower())
        found.setdefault(str(table), {})[str(column)] = width
    return found


def _options(connection: sa.Connection) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = {name: {} for name in OPTION_LISTS}
    rows = connection.exec_driver_sql(
        "SELECT list_id, option_id, title FROM list_options WHERE list_id IN %s AND activity = 1 "
        "ORDER BY list_id, seq, option_id",
        (OPTION_LISTS,),
    )
    for list_id, option_id, title in rows:
        found[str(list_id)][str(option_id)] = str(title)
    return found


def _globals(connection: sa.Connection) -> Mapping[str, str]:
    wanted = ("gbl_time_zone", "full_new_patient_form")
    rows = connection.exec_driver_sql("SELECT gl_name, gl_value FROM globals WHERE gl_name IN %s", (wanted,))
    return {str(name): str(value) for name, value in rows}


def _user_id(connection: sa.Connection, username: str) -> int:
    found = connection.exec_driver_sql("SELECT id FROM users WHERE username = %s", (username,)).scalar()
    if found is None:
        message = f"OpenEMR has no user {username}: create it (no login needed), or set EMRSYNC_OPENEMR_USERNAME"
        raise MisconfiguredError(message)
    return int(found)


def _default_facility(connection: sa.Connection, chosen: str | None, facilities: Mapping[str, int]) -> tuple[int, str]:
    if chosen is not None:
        if chosen not in facilities:
            raise MisconfiguredError(f"OpenEMR has no facility {chosen}: see EMRSYNC_OPENEMR_FACILITY")
        return facilities[chosen], chosen
    row = connection.exec_driver_sql(
        "SELECT id, name FROM facility ORDER BY primary_business_entity DESC, service_location DESC, id LIMIT 1"
    ).one_or_none()
    return (0, "") if row is None else (int(row[0]), str(row[1]))


def _groupname(connection: sa.Connection) -> str:
    row = connection.exec_driver_sql("SELECT name FROM `groups` ORDER BY name <> 'Default', id LIMIT 1").one_or_none()
    return "Default" if row is None else str(row[0])


def _zone(name: str | None) -> zoneinfo.ZoneInfo:
    if not name:
        # Its times are then those of its web server, of which the database tells nothing.
        message = (
            "OpenEMR's global gbl_time_zone is empty: set it (Administration, Config, Locale), "
            "or EMRSYNC_OPENEMR_TIME_ZONE to the site's IANA name"
        )
        raise MisconfiguredError(message)
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        message = f"the site's time zone {name!r} is unknown: set EMRSYNC_OPENEMR_TIME_ZONE to an IANA name"
        raise MisconfiguredError(message) from None
