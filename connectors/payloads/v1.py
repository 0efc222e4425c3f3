"""Version 1 of the payloads; absent and null mean the same."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

# Bounds against abuse; OpenEMR's own widths are narrower and checked against its schema by the consumer.
Line: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=r"\S")]
Text: TypeAlias = Annotated[str, StringConstraints(max_length=65_000)]
EntityId: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^\S(?:.*\S)?$")]


def _number_as_text(value: Any) -> Any:
    """Take 30 for "30": writers differ, and the meaning does not."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


NumberOrLine: TypeAlias = Annotated[Line, pydantic.BeforeValidator(_number_as_text)]


class Payload(BaseModel):
    """What every payload has in common: strict types, no coercion, values never in error texts."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class AddressV1(Payload):
    """A postal address."""

    line: Line | None = None
    line2: Line | None = None
    city: Line | None = None
    state: Line | None = None
    postal_code: Line | None = None
    county: Line | None = None
    country: Line | None = None


class PatientV1(Payload):
    """A patient; marital_status, language, race, ethnicity: OpenEMR option ids or titles, or codes of the consumer."""

    patient_id: EntityId
    family_name: Line
    given_name: Line
    birth_date: dt.date
    sex: Literal["male", "female", "other", "unknown"]
    middle_name: Line | None = None
    preferred_name: Line | None = None
    suffix: Line | None = None
    title: Line | None = None
    address: AddressV1 | None = None
    phone_home: Line | None = None
    phone_mobile: Line | None = None
    phone_work: Line | None = None
    email: Line | None = None
    marital_status: Line | None = None
    language: Line | None = None
    race: Line | None = None
    ethnicity: Line | None = None
    national_id: Line | None = None
    deceased_at: AwareDatetime | None = None
    registered_at: AwareDatetime | None = None

    @property
    def entity_id(self) -> str:
        """The Kafka key of events about this patient."""
        return self.patient_id


class EncounterV1(Payload):
    """A visit; class_code is an HL7 v3 ActEncounterCode known to OpenEMR, category_id a pc_catid."""

    encounter_id: EntityId
    patient_id: EntityId
    started_at: AwareDatetime
    class_code: Line
    ended_at: AwareDatetime | None = None
    reason: Text | None = None
    category_id: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    facility_name: Line | None = None
    provider_npi: NumberOrLine | None = None

    @pydantic.field_validator("ended_at")
    @classmethod
    def _ends_after_start(cls, ended_at: dt.datetime | None, read: pydantic.ValidationInfo) -> dt.datetime | None:
        started_at = read.data.get("started_at")
        if ended_at is not None and started_at is not None and ended_at < started_at:
            raise ValueError("is before started_at")
        return ended_at

    @property
    def entity_id(self) -> str:
        """The Kafka key of events about this encounter."""
        return self.encounter_id


class CodeV1(Payload):
    """What is ordered; system is an OpenEMR code type (LOINC, CPT4, SNOMED-CT, …) or its FHIR URI."""

    system: Line
    code: NumberOrLine
    display: Line


class _OrderV1(Payload):
    order_id: EntityId
    patient_id: EntityId
    ordered_at: AwareDatetime
    status: Literal["draft", "active", "on-hold", "completed", "revoked"]
    encounter_id: EntityId | None = None
    priority: Literal["routine", "urgent", "asap", "stat"] | None = None
    provider_npi: NumberOrLine | None = None
    instructions: Text | None = None
    diagnosis_codes: Annotated[list[Line], Field(max_length=100)] | None = None

    @property
    def entity_id(self) -> str:
        """The Kafka key of events about this order."""
        return self.order_id


class DiagnosticOrderV1(_OrderV1):
    """An order of one laboratory test, image or procedure."""

    kind: Literal["laboratory", "imaging", "procedure"]
    code: CodeV1


class MedicationOrderV1(_OrderV1):
    """A prescription; route, form and unit are OpenEMR option ids or titles, or words that the consumer knows."""

    kind: Literal["medication"]
    drug: Line
    rxnorm: NumberOrLine | None = None
    dosage: NumberOrLine | None = None
    quantity: NumberOrLine | None = None
    refills: Annotated[int, Field(ge=0, le=1_000)] | None = None
    route: NumberOrLine | None = None
    form: NumberOrLine | None = None
    unit: NumberOrLine | None = None
    start_date: dt.date | None = None
    end_date: dt.date | None = None

    @pydantic.field_validator("end_date")
    @classmethod
    def _ends_after_start(cls, end_date: dt.date | None, read: pydantic.ValidationInfo) -> dt.date | None:
        start_date = read.data.get("start_date")
        if end_date is not None and start_date is not None and end_date < start_date:
            raise ValueError("is before start_date")
        return end_date


OrderV1: TypeAlias = Annotated[DiagnosticOrderV1 | MedicationOrderV1, Field(discriminator="kind")]
