"""The state file of a home."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.state import ACCOUNTS_WITH_PASSWORD, load_state, new_state, save_state


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    """Ports and passwords survive between commands."""
    state = dataclasses.replace(new_state(), ports={"kafka": 19092}, services=("kafka",), workers=2)
    save_state(tmp_path / "home" / "state.json", state)

    assert load_state(tmp_path / "home" / "state.json") == state


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """It holds passwords."""
    path = tmp_path / "state.json"
    save_state(path, new_state())

    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_a_home_without_state_is_new(tmp_path: Path) -> None:
    """Absence is no error: the home has never been up."""
    assert load_state(tmp_path / "state.json") is None


@pytest.mark.parametrize("text", ["", "[]", '{"home_id": "x"}', '{"ports": 5}'])
def test_a_damaged_file_is_named_and_not_replaced(tmp_path: Path, text: str) -> None:
    """New passwords would not open the databases."""
    path = tmp_path / "state.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(StackError, match=str(path)):
        load_state(path)

    assert path.read_text(encoding="utf-8") == text


def test_each_home_has_its_own_secrets_that_need_no_quoting() -> None:
    """They stand in URLs, SQL strings, property files and supervisor's configuration."""
    first, second = new_state(), new_state()

    assert set(first.passwords) == set(ACCOUNTS_WITH_PASSWORD)
    assert all(password.isalnum() and len(password) >= 32 for password in first.passwords.values())
    assert not set(first.passwords.values()) & set(second.passwords.values())
    assert first.home_id != second.home_id
