"""Waiting for the database, but never without end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import Error, OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected

from calls.exceptions import DatabaseFailed

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 5.0
# A stream of foreign KEY SHARE holders overtakes a waiting FOR UPDATE and restarts its lock_timeout each time,
# so the statement that takes the lock has a limit of its own.
LOCK_STATEMENT_TIMEOUT = 10.0
DEADLOCK_RETRIES = 3
# Seconds for whoever else was in the deadlock to take the lock that has become free: taken back at once, it would be
# the same again.
DEADLOCK_PAUSE = 0.1

T = TypeVar("T")


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
def failing_as(failure: type[DatabaseFailed]) -> Iterator[None]:
    """
    Turn whatever the database raises inside into ``failure``; what was a failure inside already is this one outside.

    The log names the error and its SQLSTATE. It leaves out the server's own words, which may quote a row.
    """
    try:
        yield
    except DatabaseFailed as error:
        raise failure from error.__cause__
    except Error as error:
        logger.warning("database error: %s %s", type(error).__name__, getattr(error.__cause__, "sqlstate", None))
        raise failure from error


def retrying_deadlocks(attempt: Callable[[], T]) -> T:
    """Call ``attempt``, again if a deadlock chose it as the victim and no outer transaction is lost with it."""
    retries = 0 if connection.in_atomic_block else DEADLOCK_RETRIES
    while True:
        try:
            return attempt()
        except (OperationalError, DatabaseFailed) as error:
            database_error = error.__cause__ if isinstance(error, DatabaseFailed) else error
            if not retries or not isinstance(getattr(database_error, "__cause__", None), DeadlockDetected):
                raise
            retries -= 1
        time.sleep(DEADLOCK_PAUSE)
