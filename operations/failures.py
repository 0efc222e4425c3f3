"""The errors that a command may end with on any day, and how they are told."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from connectors.accounts import AccountsError
from connectors.config import SettingsError
from connectors.connect_errors import ConnectError
from connectors.connector_changes import SecretInConfigError
from connectors.connector_config import ConnectorConfigError
from connectors.migrations.errors import MigrationError
from consumer.ports import MisconfiguredError, TransientError
from operations.database_errors import reason
from operations.errors import OperationError
from producer_app.errors import AppError
from stack.errors import StackError

WRONG_USE: Final = 2
FOUND: Final = 1

KNOWN: Final = (
    AccountsError,
    AppError,
    ConnectError,
    ConnectorConfigError,
    MigrationError,
    SecretInConfigError,
    MisconfiguredError,
    OperationError,
    SettingsError,
    StackError,
    TransientError,
    sa.exc.DBAPIError,
)


def message(error: BaseException) -> str:
    """Tell an error; a database's own is cut to its first line, as the others may quote values."""
    if isinstance(error, sa.exc.DBAPIError):
        what = "does not answer" if isinstance(error, sa.exc.OperationalError) else "refuses"
        return f"a database {what}: {reason(error)}"
    return str(error)


def exit_code(error: BaseException) -> int:
    """Return 2 when the call or its settings are wrong, 1 otherwise."""
    return WRONG_USE if isinstance(error, SettingsError | ConnectorConfigError) else FOUND
