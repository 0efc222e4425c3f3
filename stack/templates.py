"""Rendering of configuration templates with @NAME@ placeholders, which clash with no syntax of the servers."""

import re
from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"@([A-Z][A-Z0-9_]*)@")


def render(template: str, values: Mapping[str, str | int]) -> str:
    """Return the template with every placeholder replaced.

    Raises:
        ValueError: a placeholder has no value, a value has no placeholder, or a value would break its line.
    """
    named = set(_PLACEHOLDER.findall(template))
    if named != set(values):
        raise ValueError(f"placeholders {sorted(named)} and values {sorted(values)} differ")
    broken = sorted(name for name, value in values.items() if "\n" in str(value))
    if broken:
        raise ValueError(f"values of {broken} hold a line break")
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)
