"""What a home remembers between commands: its identity, ports and passwords."""

import base64
import dataclasses
import json
import os
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

ACCOUNTS_WITH_PASSWORD = (
    "source_admin",
    "openemr_admin",
    "emrsync_app",
    "emrsync_cdc",
    "emrsync_marker",
    "emrsync_writer",
    "connect_rest",
)


@dataclass(frozen=True)
class State:
    """The contents of state.json; passwords are random per home and made once."""

    home_id: str
    kafka_cluster_id: str
    services: tuple[str, ...]
    workers: int
    ports: Mapping[str, int]
    passwords: Mapping[str, str]
    connect_auth: bool = False


def new_state() -> State:
    """Return the state of a home that has never been up, with fresh identity and passwords."""
    return State(
        home_id=secrets.token_hex(8),
        kafka_cluster_id=_kafka_uuid(),
        services=(),
        workers=1,
        ports={},
        passwords=_passwords(),
    )


def load_state(path: Path) -> State | None:
    """Return the state kept at `path`, or None when there is none.

    Raises:
        StackError: the file is not one of ours.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return State(
            home_id=str(fields["home_id"]),
            kafka_cluster_id=str(fields["kafka_cluster_id"]),
            services=tuple(str(name) for name in fields["services"]),
            workers=int(fields["workers"]),
            ports={str(name): int(port) for name, port in fields["ports"].items()},
            # A home of an earlier version lacks the passwords of accounts that came later.
            passwords={**_passwords(), **{str(name): str(one) for name, one in fields["passwords"].items()}},
            connect_auth=bool(fields.get("connect_auth", False)),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{path} cannot be read as a stack's state: remove the home, or restore the file") from error


def save_state(path: Path, state: State) -> None:
    """Write the state whole or not at all, readable by the owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(state), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _passwords() -> dict[str, str]:
    # Hexadecimal: safe in URLs, property files, SQL strings and supervisor's configuration without quoting.
    return {account: secrets.token_hex(16) for account in ACCOUNTS_WITH_PASSWORD}


def _kafka_uuid() -> str:
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # Kafka's own tools read a leading dash as an option.
    return text if not text.startswith("-") else _kafka_uuid()
