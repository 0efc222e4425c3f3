"""Codes and texts of payloads to the option ids of a site's own lists: the declared tables, and how they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from consumer.openemr.code_words import (
    CLASS_WORDS,
    ETHNICITY_WORDS,
    FORM_WORDS,
    KIND_WORDS,
    LANGUAGE_WORDS,
    MARITAL_WORDS,
    PRIORITY_WORDS,
    RACE_WORDS,
    ROUTE_WORDS,
    SEX_WORDS,
    STATUS_WORDS,
    UNIT_WORDS,
)
from consumer.outcome import ErrorClass
from consumer.ports import MisconfiguredError

Options: TypeAlias = Mapping[str, Mapping[str, str]]
"""Titles by option id by list id, in the list's own order."""

ALLOWED_SHOWN_MAX: Final = 10
"""Option ids that a refusal names; list race has more than nine hundred."""


class FieldError(Exception):
    """This site cannot hold a field; the message names it and the reason."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        self.error_class = error_class
        super().__init__(message)


@dataclasses.dataclass(frozen=True, slots=True)
class CodeTable:
    """How one field is read.

    words: option ids or titles by code or text in lower case, the best first; of those the site's first is taken.
    outside: option ids that are written although the list may lack them, as OpenEMR's FHIR API reads them so.
    """

    field: str
    list_id: str
    words: Mapping[str, Sequence[str]]
    outside: frozenset[str] = frozenset()


SEX: Final = CodeTable("sex", "sex", SEX_WORDS, frozenset({"Other"}))
MARITAL_STATUS: Final = CodeTable("marital_status", "marital", MARITAL_WORDS)
LANGUAGE: Final = CodeTable("language", "language", LANGUAGE_WORDS)
RACE: Final = CodeTable("race", "race", RACE_WORDS)
ETHNICITY: Final = CodeTable("ethnicity", "ethnicity", ETHNICITY_WORDS)
CLASS_CODE: Final = CodeTable("class_code", "_ActEncounterCode", CLASS_WORDS)
STATUS: Final = CodeTable("status", "ord_status", STATUS_WORDS, frozenset({"draft", "on-hold"}))
PRIORITY: Final = CodeTable("priority", "ord_priority", PRIORITY_WORDS)
KIND: Final = CodeTable("kind", "order_type", KIND_WORDS)
ROUTE: Final = CodeTable("route", "drug_route", ROUTE_WORDS)
FORM: Final = CodeTable("form", "drug_form", FORM_WORDS)
UNIT: Final = CodeTable("unit", "drug_units", UNIT_WORDS)

TABLES: Final = (
    SEX,
    MARITAL_STATUS,
    LANGUAGE,
    RACE,
    ETHNICITY,
    CLASS_CODE,
    STATUS,
    PRIORITY,
    KIND,
    ROUTE,
    FORM,
    UNIT,
)


class Codes:
    """The tables, read against one site's lists.

    fallbacks: by field, the option id to write instead of refusing a value that the site has no option for.
    """

    def __init__(self, options: Options, fallbacks: Mapping[str, str]) -> None:
        self._options = options
        self._fallbacks = fallbacks
        self._folded = {table.list_id: _folded(options.get(table.list_id, {})) for table in TABLES}
        self._check_fallbacks()

    def option(self, table: CodeTable, value: str, *, number: bool = False) -> str:
        """Return the option id of this site that a code or text means.

        number: the column holds numbers, so that only such options can be written.

        Raises:
            FieldError: there is none, and no fallback; the message names the field and what the list has.
        """
        found = self._find(table, value, number=number)
        if found is None:
            found = self._fallbacks.get(table.field)
        if found is None:
            raise FieldError(ErrorClass.UNKNOWN_OPTION, self._refusal(table, number=number))
        return found

    def remark(self, coded: Iterable[tuple[CodeTable, Callable[[Any], str | None], bool]], payload: Any) -> str | None:
        """Name the fields whose fallback is written; None for none."""
        if not self._fallbacks:
            return None
        fallen = [
            table.field
            for table, read, number in coded
            if (value := read(payload)) is not None and self._find(table, value, number=number) is None
        ]
        return f"{', '.join(fallen)}: is no option of OpenEMR; the configured fallback is written" if fallen else None

    def _find(self, table: CodeTable, value: str, *, number: bool) -> str | None:
        options = self._options.get(table.list_id, {})
        if value in options and (value.isdigit() or not number):
            return value
        folded = self._folded[table.list_id]
        for candidate in (*table.words.get(value.casefold(), ()), value):
            found = candidate if candidate in table.outside else folded.get(candidate.casefold())
            if found is not None and (found.isdigit() or not number):
                return found
        return None

    def _refusal(self, table: CodeTable, *, number: bool) -> str:
        ids = [one for one in self._options.get(table.list_id, {}) if one and (one.isdigit() or not number)]
        more = f" and {len(ids) - ALLOWED_SHOWN_MAX} more" if len(ids) > ALLOWED_SHOWN_MAX else ""
        allowed = f"which has {', '.join(ids[:ALLOWED_SHOWN_MAX])}{more}" if ids else "which is empty"
        return f"{table.field}: is no option of OpenEMR's list {table.list_id}, {allowed}"

    def _check_fallbacks(self) -> None:
        lists = {table.field: table.list_id for table in TABLES}
        for field, option_id in self._fallbacks.items():
            if field not in lists:
                message = f"EMRSYNC_OPENEMR_FALLBACKS: {field} is no coded field; those are {', '.join(sorted(lists))}"
                raise MisconfiguredError(message)
            if option_id and option_id not in self._options.get(lists[field], {}):
                message = f"EMRSYNC_OPENEMR_FALLBACKS: OpenEMR's list {lists[field]} has no option {option_id}"
                raise MisconfiguredError(message)


def _folded(options: Mapping[str, str]) -> Mapping[str, str]:
    """Give ids by id and title in lower case; of options alike the first in the list's order is taken."""
    found: dict[str, str] = {}
    for text_of in (lambda one: one, lambda one: options[one]):
        for option_id in options:
            text = text_of(option_id).casefold()
            if text:
                found.setdefault(text, option_id)
    return found
