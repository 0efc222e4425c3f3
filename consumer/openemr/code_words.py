"""What codes and texts that applications use mean in OpenEMR's lists; ids and titles of options need no line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Words: TypeAlias = Mapping[str, Sequence[str]]
"""Option ids or titles, the best first, by code or text in lower case."""

# The option was renamed in 8.1.0, and on upgraded sites not in every list.
_DECLINED: Final = ("decline_to_specify", "declne_to_specfy")
_DECLINING: Final[Words] = {
    "decline_to_specify": _DECLINED,
    "declne_to_specfy": _DECLINED,
    "asked-declined": _DECLINED,
    "asku": _DECLINED,
    "declined": _DECLINED,
}

# List sex has no option for other; OpenEMR's FHIR API gives 'other' for any text that it does not know.
SEX_WORDS: Final[Words] = {
    "male": ("Male",),
    "m": ("Male",),
    "female": ("Female",),
    "f": ("Female",),
    "unknown": ("UNK",),
    "other": ("Other",),
}

# HL7 v3 MaritalStatus.
MARITAL_WORDS: Final[Words] = {
    "m": ("married",),
    "s": ("single",),
    "never married": ("single",),
    "d": ("divorced",),
    "w": ("widowed",),
    "l": ("separated",),
    "legally separated": ("separated",),
    "t": ("domestic partner",),
}

# ISO 639-1, where OpenEMR's list has a plain name; the list has some hundred more by their own ids.
LANGUAGE_WORDS: Final[Words] = {
    **_DECLINING,
    "ar": ("arabic",),
    "bn": ("bengali",),
    "de": ("german",),
    "el": ("greek",),
    "en": ("English",),
    "en-us": ("English",),
    "en-gb": ("English",),
    "es": ("Spanish",),
    "fa": ("persian",),
    "fr": ("french",),
    "he": ("hebrew",),
    "hi": ("hindi",),
    "it": ("italian",),
    "ja": ("japanese",),
    "ko": ("korean",),
    "pl": ("polish",),
    "pt": ("portuguese",),
    "ru": ("russian",),
    "tl": ("tagalog",),
    "uk": ("ukrainian",),
    "ur": ("urdu",),
    "vi": ("vietnamese",),
    "zh": ("chinese",),
}

# The five categories of the US Office of Management and Budget, as CDC codes and as texts.
RACE_WORDS: Final[Words] = {
    **_DECLINING,
    "1002-5": ("amer_ind_or_alaska_native",),
    "american indian or alaska native": ("amer_ind_or_alaska_native",),
    "2028-9": ("Asian",),
    "2054-5": ("black_or_afri_amer",),
    "black": ("black_or_afri_amer",),
    "black or african american": ("black_or_afri_amer",),
    "2076-8": ("native_hawai_or_pac_island",),
    "native hawaiian or other pacific islander": ("native_hawai_or_pac_island",),
    "2106-3": ("white",),
    "2131-1": ("other_race",),
    "other": ("other_race",),
}
ETHNICITY_WORDS: Final[Words] = {
    **_DECLINING,
    "2135-2": ("hisp_or_latin",),
    "hispanic": ("hisp_or_latin",),
    "2186-5": ("not_hisp_or_latin",),
    "nonhispanic": ("not_hisp_or_latin",),
    "not hispanic": ("not_hisp_or_latin",),
}

# OpenEMR uses HL7 v3 ActEncounterCode itself; HH and SS make its FHIR API show an encounter more than once.
CLASS_WORDS: Final[Words] = {
    "ambulatory": ("AMB",),
    "outpatient": ("AMB",),
    "emergency": ("EMER",),
    "field": ("FLD",),
    "inpatient": ("IMP",),
    "observation": ("OBSENC",),
    "virtual": ("VR",),
}

# OpenEMR's FHIR API reads all of them back as the payload says, draft and on-hold too, which list ord_status lacks.
STATUS_WORDS: Final[Words] = {
    "draft": ("draft",),
    "active": ("pending",),
    "on-hold": ("on-hold",),
    "completed": ("complete",),
    "revoked": ("canceled",),
}

# The list's own word from 7.0.4 on, the nearest one before.
PRIORITY_WORDS: Final[Words] = {
    "routine": ("routine", "normal"),
    "urgent": ("urgent", "high"),
    "asap": ("asap", "high"),
    "stat": ("stat", "high"),
}

KIND_WORDS: Final[Words] = {"laboratory": ("laboratory_test",), "imaging": ("imaging",), "procedure": ("procedure",)}

# Titles, since the ids are numbers that a site may have given other meanings.
ROUTE_WORDS: Final[Words] = {
    "po": ("By Mouth", "Per Oris"),
    "oral": ("By Mouth", "Per Oris"),
    "by mouth": ("By Mouth", "Per Oris"),
    "iv": ("IV",),
    "intravenous": ("IV",),
    "im": ("IM",),
    "intramuscular": ("IM",),
    "sc": ("Subcutaneous",),
    "sl": ("Sublingual",),
    "pr": ("Per Rectum",),
    "rectal": ("Per Rectum",),
    "topical": ("To Skin",),
    "nasal": ("Per Nostril",),
}
FORM_WORDS: Final[Words] = {
    "tab": ("tablet",),
    "cap": ("capsule",),
    "susp": ("suspension",),
    "sol": ("solution",),
    "drops": ("gtts(drops)",),
    "gtts": ("gtts(drops)",),
}
UNIT_WORDS: Final[Words] = {"milligram": ("mg",), "microgram": ("mcg",), "ug": ("mcg",), "g": ("grams",), "ml": ("mL",)}
