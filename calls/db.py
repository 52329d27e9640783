"""Waiting for the database, but never without end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error, connection, transaction

from calls.exceptions import BatchUpdateFailed

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 5.0
# A stream of foreign KEY SHARE holders overtakes a waiting FOR UPDATE and restarts its lock_timeout each time,
# so the statement that takes the lock has a limit of its own.
LOCK_STATEMENT_TIMEOUT = 10.0


def set_timeouts(*, lock: float = LOCK_TIMEOUT, statement: float = LOCK_STATEMENT_TIMEOUT) -> None:
    """
    Limit, in seconds, how long each following statement waits for a lock and runs, until the transaction ends.

    Set for the transaction rather than for the connection: that holds behind a transaction pooler as well.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
            [f"{lock * 1000:.0f}ms", f"{statement * 1000:.0f}ms"],
        )


@contextmanager
def bounded(*, statement: float = LOCK_STATEMENT_TIMEOUT) -> Iterator[None]:
    """A transaction whose statements wait at most 5 seconds for a lock and run at most ``statement`` seconds each."""
    with transaction.atomic():
        set_timeouts(statement=statement)
        yield


@contextmanager
def as_update_failed() -> Iterator[None]:
    """
    Turn whatever the database raises inside into :class:`~calls.exceptions.BatchUpdateFailed`.

    The log names the error and its SQLSTATE. It leaves out the server's own words, which may quote a row.
    """
    try:
        yield
    except Error as error:
        logger.warning("database error: %s %s", type(error).__name__, getattr(error.__cause__, "sqlstate", None))
        raise BatchUpdateFailed from error
