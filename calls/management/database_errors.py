"""Database errors of the commands: one line on standard error and exit status 1, instead of a traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.core.management.base import CommandError
from django.db import Error, connection

from calls.exceptions import BatchReadFailed

logger = logging.getLogger(__name__)


class DatabaseUnreachable(BatchReadFailed):
    text = "the database cannot be reached"


UNREACHABLE = f"{BatchReadFailed.text} ({BatchReadFailed.code}): {DatabaseUnreachable.text}, nothing was done"


def can_connect() -> bool:
    """
    Return whether the database accepts a new connection. If it does not, log the reason.

    Bypasses the pool, which retries for 5 seconds and logs each attempt. Returns at once, unless the server does not
    answer (5 seconds).
    """
    try:
        psycopg.connect(**connection.get_connection_params()).close()
    except (psycopg.Error, UnicodeError) as error:  # UnicodeError: the host name is malformed
        logger.error("cannot connect to the database: %s", " ".join(str(error).split()))
        return False
    return True


@contextmanager
def database_required() -> Iterator[None]:
    """
    Run a command only if the database can be reached. Works as a context manager and as a decorator.

    :raises CommandError: the database cannot be reached, or a database error inside the block. The message has the
        error's name and SQLSTATE but not the server's text, which may quote a row.
    """
    if not can_connect():
        raise CommandError(UNREACHABLE)
    try:
        yield
    except Error as error:
        sqlstate = getattr(error.__cause__, "sqlstate", None)
        raise CommandError(f"database error: {type(error).__name__} {sqlstate}") from error
