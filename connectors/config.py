"""How every part reads its settings: EMRSYNC_… variables, a .env file, and secrets from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import pydantic
import pydantic_settings
from pydantic.fields import FieldInfo

PREFIX = "EMRSYNC_"


class SettingsError(ValueError):
    """A setting is absent or senseless; the message names the variable and the reason, never the value."""


class _SecretFiles(pydantic_settings.PydanticBaseSettingsSource):
    """EMRSYNC_X_FILE names a file that holds the value of EMRSYNC_X (a Docker or Kubernetes secret)."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base's signature
        name = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(name)
        if path is None:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            raise SettingsError(f"{name}: the file cannot be read: {error.strerror}") from error

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Settings(pydantic_settings.BaseSettings):
    """The base of each part's settings; subclasses add fields, and only */config.py defines them."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",  # one environment serves all parts
        frozen=True,
        hide_input_in_errors=True,  # URLs hold passwords
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,  # noqa: ARG003 - the base's signature
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Put arguments first, then the environment, then files named by it, then .env."""
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Read the settings of this part.

        Raises:
            SettingsError: with one line per variable that is absent or senseless.
        """
        try:
            return cls(**given)
        except pydantic.ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise SettingsError("; ".join(_told(one["loc"], one["msg"]) for one in found)) from None


class MetricsSettings(Settings):
    """Where a long-running process shows its metrics."""

    metrics_port: int | None = pydantic.Field(default=None, ge=1, le=65_535)
    """Port of /metrics; without one nothing is counted and nothing listens."""

    metrics_host: str = pydantic.Field(default="127.0.0.1", min_length=1)
    """Address it listens on; loopback by default, as it asks nobody who he is."""


def _told(place: tuple[int | str, ...], reason: str) -> str:
    """Name the variable; settings that do not fit each other are named by the reason."""
    return f"{PREFIX}{'_'.join(str(part) for part in place).upper()}: {reason}" if place else reason
