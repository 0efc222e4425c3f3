"""What can go wrong in the application, one class per category; no text holds a payload value."""

from __future__ import annotations

from connectors.payloads.reading import FieldError, PayloadError


class AppError(Exception):
    """The base of everything the application raises on purpose."""


class InvalidChangeError(AppError):
    """The caller's input is wrong; fields holds each field and its reason, and nothing was written."""

    def __init__(self, fields: tuple[FieldError, ...]) -> None:
        self.fields = fields
        super().__init__("; ".join(f"{error.field}: {error.reason}" for error in fields))

    @classmethod
    def of(cls, field: str, reason: str) -> InvalidChangeError:
        """Name one field and what is wrong with it."""
        return cls((FieldError(field=field, reason=reason),))

    @classmethod
    def of_payload(cls, error: PayloadError) -> InvalidChangeError:
        """Take over the fields of a payload that could not be read."""
        return cls(error.fields)


class NotFoundError(AppError):
    """There is no such entity."""


class ConflictError(AppError):
    """The entity is in a state that forbids the change."""


class AlreadyExistsError(ConflictError):
    """An entity with this id exists, perhaps deleted; ids are never used twice."""


class DeletedError(ConflictError):
    """The entity was deleted and cannot be changed any more."""


class UnavailableError(AppError):
    """The database cannot be reached or a lock was not given in time; the same call may succeed later."""


class BusyError(UnavailableError):
    """Another transaction held a row for too long, or both waited for each other; a repetition will do."""


class StorageError(AppError):
    """The database refused a statement; a table, a privilege or our code is wrong."""


class TransactionError(AppError):
    """Our own mistake or the embedding application's: the call needs an open transaction, or must not have one."""
