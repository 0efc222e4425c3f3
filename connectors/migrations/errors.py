"""What a migration of the outbox can refuse."""


class MigrationError(Exception):
    """The table cannot be brought to the contract as it is; the message says what to change, and shows no row."""
