"""The only place of the stack that reads the environment."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StackSettings(BaseSettings):
    """Where the stack keeps things; every field can be left out."""

    model_config = SettingsConfigDict(extra="ignore")

    stack_home: Path = Field(default=Path(".stack"), validation_alias="EMRSYNC_STACK_HOME")
    cache_dir: Path | None = Field(default=None, validation_alias="EMRSYNC_CACHE_DIR")
    xdg_cache_home: Path | None = Field(default=None, validation_alias="XDG_CACHE_HOME")

    jmx_port: int | None = Field(default=None, ge=1, le=65_000, validation_alias="EMRSYNC_JMX_PORT")

    def cache_choice(self) -> Path:
        """Return the folder for downloads that this user asked for, by EMRSYNC_CACHE_DIR, XDG_CACHE_HOME or default."""
        if self.cache_dir is not None:
            return self.cache_dir.absolute() / "emrsync"
        base = self.xdg_cache_home or Path.home() / ".cache"
        return base.absolute() / "emrsync"


def callers_environment() -> dict[str, str]:
    """Return the whole environment, for downloads only: proxies, certificates and Maven's options are the caller's."""
    return dict(os.environ)
