"""What a connector's configuration would change, with secrets masked and with what hangs on a changed identity."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Final

MASK: Final = "****"

_SECRET: Final = re.compile(r"password|passphrase|secret|token|credential|jaas|private.?key|basic\.auth", re.IGNORECASE)
_REFERENCE: Final = re.compile(r"\$\{[a-z]+:[^}]*\}")

IDENTITY: Final[Mapping[str, str]] = {
    "connector.class": "positions of another engine mean nothing to it",
    "topic.prefix": "topics and positions hang on it: the connector begins anew under other topics, which nobody reads",
    "database.dbname": "the slot belongs to the old database, whose rows stop coming",
    "database.include.list": "rows of the old database stop coming",
    "slot.name": "the old slot stays, nobody reads it, and PostgreSQL keeps its log for it until it is dropped",
}
"""Settings that say which stream this is; changing one is a new connector, not a change of the old one."""


class SecretInConfigError(ValueError):
    """A configuration holds a secret itself, which Connect's REST interface would show to everyone who asks."""


@dataclasses.dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting that differs; live is None when it would be added, wanted is None when it would go."""

    name: str
    live: str | None
    wanted: str | None

    def __str__(self) -> str:
        if self.live is None:
            return f"+ {self.name} = {self.wanted}"
        if self.wanted is None:
            return f"- {self.name} = {self.live}"
        return f"~ {self.name} = {self.live} -> {self.wanted}"

    @property
    def consequence(self) -> str | None:
        """What hangs on the setting, when it says which stream this is; None for all others and a new connector."""
        return None if self.live is None else IDENTITY.get(self.name)


def changes(live: Mapping[str, str] | None, wanted: Mapping[str, str]) -> tuple[SettingChange, ...]:
    """Compare by name; live is None when there is no connector yet. Secrets are masked on both sides."""
    before = live or {}
    names = sorted({*before, *wanted} - {"name"})  # Connect adds the name itself
    differing = (name for name in names if before.get(name) != wanted.get(name))
    return tuple(
        SettingChange(name, masked(name, before.get(name)), masked(name, wanted.get(name))) for name in differing
    )


def masked(name: str, value: str | None) -> str | None:
    """Return a value as it may be shown: a secret only when it is a reference that the worker resolves."""
    if value is None or not _SECRET.search(name) or _REFERENCE.fullmatch(value):
        return value
    return MASK


def check_secrets(config: Mapping[str, str]) -> None:
    """Refuse a configuration that holds a secret in place of a reference such as ${env:EMRSYNC_CDC_PASSWORD}.

    Raises:
        SecretInConfigError: naming the settings, never their values.
    """
    bare = sorted(name for name, value in config.items() if value and masked(name, value) == MASK)
    if bare:
        raise SecretInConfigError(
            f"{', '.join(bare)}: a secret in plain text; refer to the worker's environment or a file of its secrets"
            " folder, ${env:EMRSYNC_...} or ${file:PATH:KEY}"
        )
