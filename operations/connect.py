"""Kafka Connect as the settings name it."""

from __future__ import annotations

from connectors.connect_client import ConnectClient
from operations.config import OperationsSettings


def connect_client(settings: OperationsSettings, *, retry_limit_s: float) -> ConnectClient:
    """Return a client; EMRSYNC_CONNECT_URL must be set, and may name several workers.

    Raises:
        SettingsError: it is not set, or a user without a password is.
    """
    url = settings.text("connect_url")
    login = None if settings.connect_user is None else (settings.connect_user, settings.text("connect_password"))
    return ConnectClient(url, login=login, retry_limit_s=retry_limit_s)
