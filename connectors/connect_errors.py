"""What can go wrong between us and Kafka Connect; each message says what to do."""

from __future__ import annotations

import re
from typing import Final

import httpx

_NO_PLUGIN: Final = re.compile(r"Failed to find any class that implements Connector and which name matches ([\w.]+)")
_STRUCT: Final = re.compile(r"Struct\s*\{.*", re.DOTALL)
_REASON_CHARACTERS_MAX: Final = 400
_REASONS_MAX: Final = 6

# MySQL's number 1236 is no sign: it also stands for two readers of one server id, and for an event that is too large.
_LOG_GONE: Final = (
    "purged",
    "Could not find first log file",
    "Could not find GTID state requested by slave",
    "to start replication from impossible position",
    "to start replication from position > file size",
    "is no longer available on the server",
    # A slot past max_slot_wal_keep_size, in the words of PostgreSQL 13 to 17.
    "can no longer get changes from replication slot",
    "cannot read from logical replication slot",
    "This slot has been invalidated",
    "requested WAL segment",
)


class ConnectError(Exception):
    """Base of all errors of Kafka Connect."""


class ConnectUnreachableError(ConnectError):
    """Nothing answers at the worker's address."""


class ConnectForbiddenError(ConnectError):
    """The REST interface wants another user or password."""


class ConnectBusyError(ConnectError):
    """The workers were sharing out their work for longer than we may wait."""


class ConnectorAbsentError(ConnectError):
    """There is no connector of this name."""


class ConnectorRefusedError(ConnectError):
    """Connect refuses the configuration."""


class SourceUnreachableError(ConnectError):
    """The connector cannot reach the source database with the configuration it was given."""


class ConnectorNotRunningError(ConnectError):
    """The connector or one of its tasks does not run; the message holds the causes of its trace."""


class WatchGaveUpError(ConnectError):
    """Restarting did not help; a person must look."""


def says_log_is_gone(failure: str) -> bool:
    """Tell whether a failure means that the source has dropped log that was not read, which no restart brings back."""
    return any(sign in failure for sign in _LOG_GONE)


def causes(trace: str) -> str:
    """Return the exceptions of a Java trace, outermost first, without its frames and without rows it may quote."""
    lines = [line.strip() for line in trace.splitlines()]
    told = [line for number, line in enumerate(lines) if number == 0 or line.startswith("Caused by:")]
    shown = [_STRUCT.sub("Struct{…}", line)[:_REASON_CHARACTERS_MAX] for line in told if line]
    if len(shown) > _REASONS_MAX:
        # The root is the last one, and the one that tells.
        shown = [*shown[: _REASONS_MAX - 1], shown[-1]]
    return "\n".join(shown)


def refusal(response: httpx.Response, path: str) -> ConnectError:
    """Return the error that an answer of the REST interface means."""
    message, in_json = _message(response)
    words = " ".join(message.split())
    if plugin := _NO_PLUGIN.search(words):
        return ConnectorRefusedError(
            f"Kafka Connect has no plugin for {plugin[1]}: put Debezium's plugin of this engine into the plugin.path"
            " of every worker, and start it again"
        )
    error: ConnectError
    match response.status_code:
        case 401 | 403:
            error = ConnectForbiddenError(
                "Kafka Connect asks who is there: set EMRSYNC_CONNECT_USER and EMRSYNC_CONNECT_PASSWORD"
            )
        case 404 if not in_json:
            # Its web server listens before the worker has put its pages there.
            error = ConnectBusyError("the worker is starting; try again")
        case 503:
            error = ConnectBusyError(f"the worker is starting: {words}; try again")
        case 404:
            error = ConnectorAbsentError(f"{message or path}: apply it first, `emrsync connector apply`")
        case 409:
            error = ConnectBusyError(f"the workers are sharing out their work: {message}; try again")
        case 400 if "Unable to connect" in message or "connection" in message.lower():
            error = SourceUnreachableError(
                f"the connector cannot use the source database: {words};"
                " check EMRSYNC_CDC_…, and that the worker has EMRSYNC_CDC_PASSWORD"
            )
        case 400 | 422:
            error = ConnectorRefusedError(f"Kafka Connect refuses the configuration: {words}")
        case 500 if "NullPointer" in message or "because" in message:
            # Debezium's validation of a database that does not answer ends this way.
            error = SourceUnreachableError(
                "the connector cannot reach the source database: start it or check EMRSYNC_CDC_HOST and"
                " EMRSYNC_CDC_PORT; the worker's log has the reason"
            )
        case code:
            error = ConnectError(f"Kafka Connect answers {code} to {path}: {causes(message)}; see the worker's log")
    return error


def _message(response: httpx.Response) -> tuple[str, bool]:
    """Give what an answer says, and whether it is Connect's own JSON."""
    try:
        return str(response.json().get("message") or ""), True
    except (ValueError, AttributeError):
        return response.text[:400], False
