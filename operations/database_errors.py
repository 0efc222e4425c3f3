"""A database's own words, cut to what holds no value."""

from __future__ import annotations

import sqlalchemy as sa


def reason(error: sa.exc.DBAPIError) -> str:
    """Return the first line of the driver's message: PostgreSQL quotes values from the second line on.

    PyMySQL's errors are a number and a message, of which the message is returned.
    """
    arguments: tuple[object, ...] = error.orig.args if error.orig is not None else ()
    text = str(arguments[1]) if len(arguments) > 1 else str(error.orig)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__
