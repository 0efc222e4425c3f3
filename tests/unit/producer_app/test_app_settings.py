"""The application's settings, and the engine that is built from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from connectors.config import SettingsError
from connectors.outbox import TargetSystem
from producer_app.bootstrap import build
from producer_app.config import AppSettings
from producer_app.targets import TargetChoice

URL = "postgresql+psycopg://app:Sesame@127.0.0.1:1/clinic"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in AppSettings.model_fields:
        monkeypatch.delenv(f"EMRSYNC_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_only_the_url_must_be_given() -> None:
    """Everything else has a default that works, and no text of the settings shows the password."""
    settings = AppSettings.read(app_url=URL)

    assert (settings.app_targets, settings.app_pool_size, settings.app_import_batch) == (TargetChoice.OPENEMR, 10, 100)
    assert "Sesame" not in repr(settings)


def test_the_url_is_read_from_the_environment_or_a_secret_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container gets its password as a file, which ends in a newline."""
    secret = tmp_path / "url"
    secret.write_text(f"{URL}\n", encoding="utf-8")
    monkeypatch.setenv("EMRSYNC_APP_URL_FILE", str(secret))

    assert AppSettings.read().app_url.get_secret_value() == URL


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "EMRSYNC_APP_URL: Field required"),
        ({"app_url": "Sesame"}, "EMRSYNC_APP_URL: .*is no SQLAlchemy URL"),
        ({"app_url": "sqlite:///Sesame"}, "EMRSYNC_APP_URL: .*must begin with postgresql"),
        ({"app_url": URL, "app_targets": "Sesame"}, "EMRSYNC_APP_TARGETS: "),
        ({"app_url": URL, "app_pool_size": 0}, "EMRSYNC_APP_POOL_SIZE: "),
        ({"app_url": URL, "app_import_batch": 1_001}, "EMRSYNC_APP_IMPORT_BATCH: "),
    ],
)
def test_a_senseless_setting_is_named_without_its_value(given: dict[str, object], said: str) -> None:
    """Values of settings hold passwords."""
    with pytest.raises(SettingsError, match=said) as caught:
        AppSettings.read(**given)

    assert "Sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("choice", "systems"),
    [
        ("openemr", (TargetSystem.OPENEMR,)),
        ("fhir", (TargetSystem.FHIR,)),
        ("both", (TargetSystem.OPENEMR, TargetSystem.FHIR)),
    ],
)
def test_a_choice_of_targets_is_one_or_two_systems(choice: str, systems: tuple[TargetSystem, ...]) -> None:
    """The order of both is the order of their outbox rows."""
    assert build(AppSettings.read(app_url=URL, app_targets=choice)).targets == systems


@pytest.mark.parametrize("url", [URL, "mysql+pymysql://app:Sesame@127.0.0.1:1/clinic"])
def test_the_engine_hides_parameters_and_bounds_its_pool(url: str) -> None:
    """Parameters are patients' names, and an unbounded pool takes every connection of the database."""
    engine = build(AppSettings.read(app_url=url, app_pool_size=3)).engine

    assert engine.hide_parameters is True
    assert isinstance(engine.pool, sa.QueuePool)
    assert (engine.pool.size(), engine.pool._max_overflow) == (3, 0)
