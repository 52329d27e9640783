"""Transactions with timeouts, deadlock retries and error translation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import DataError, Error, IntegrityError, OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected

from calls.exceptions import DatabaseFailed, FieldInvalid

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 5.0
# Foreign keys take KEY SHARE locks. A steady stream of them overtakes a waiting FOR UPDATE and restarts its
# lock_timeout each time, so the statement that takes the lock needs a timeout of its own.
LOCK_STATEMENT_TIMEOUT = 10.0
DEADLOCK_RETRIES = 3
# Seconds before a deadlock victim tries again. Without a pause it would take its first lock back before the other
# transaction gets it, and run into the same deadlock.
DEADLOCK_PAUSE = 0.1

P = ParamSpec("P")
T = TypeVar("T")


def set_timeouts(*, lock: float = LOCK_TIMEOUT, statement: float = LOCK_STATEMENT_TIMEOUT) -> None:
    """
    Set lock and statement timeouts, in seconds, for the rest of the transaction.

    They are local to the transaction, so they also work behind a transaction pooler such as PgBouncer.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
            [f"{lock * 1000:.0f}ms", f"{statement * 1000:.0f}ms"],
        )


@contextmanager
def transaction_with_timeouts(*, statement: float = LOCK_STATEMENT_TIMEOUT) -> Iterator[None]:
    """
    Open a transaction in which a statement waits at most 5 seconds for each lock.

    :param statement: the timeout of each statement as a whole, in seconds.
    """
    with transaction.atomic():
        set_timeouts(statement=statement)
        yield


def lock_name(name: str) -> None:
    """Wait for an advisory lock on ``name``, and hold it until the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


@contextmanager
def database_errors_as(failure: type[DatabaseFailed]) -> Iterator[None]:
    """
    Translate every database error into ``failure``. Works as a context manager and as a decorator.

    A :class:`DatabaseFailed` from a nested call is translated as well. The log gets the error's name and SQLSTATE but
    not the server's message, which may quote a row.
    """
    try:
        yield
    except DatabaseFailed as error:
        raise failure from error.__cause__
    except Error as error:
        logger.warning("database error: %s %s", type(error).__name__, getattr(error.__cause__, "sqlstate", None))
        raise failure from error


@contextmanager
def refused_values_as_invalid(field: str) -> Iterator[None]:
    """
    Translate a :class:`DatabaseFailed` whose cause is a refused value into :class:`FieldInvalid`.

    An adopted table may be stricter than ours, for example about the length of a text. Trying again does not help.
    """
    try:
        yield
    except DatabaseFailed as failed:
        if isinstance(failed.__cause__, DataError | IntegrityError):
            raise FieldInvalid(field, "have a value that a constraint of the table refuses") from failed
        raise


def is_connection_lost(failure: DatabaseFailed) -> bool:
    """Return whether the error has no SQLSTATE, which usually means that the server did not answer."""
    error = failure.__cause__
    return isinstance(error, Error) and getattr(error.__cause__, "sqlstate", None) is None


def retry_on_deadlock(function: Callable[P, T]) -> Callable[P, T]:
    """
    Run the decorated function again when PostgreSQL chose it as a deadlock victim, at most three times.

    Inside a caller's transaction nothing is retried: the deadlock has already aborted that transaction.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        retries = 0 if connection.in_atomic_block else DEADLOCK_RETRIES
        while True:
            try:
                return function(*args, **kwargs)
            except (OperationalError, DatabaseFailed) as error:
                if not retries or not _is_deadlock(error):
                    raise
                retries -= 1
            time.sleep(DEADLOCK_PAUSE)

    return wrapper


def _is_deadlock(error: BaseException) -> bool:
    database_error = error.__cause__ if isinstance(error, DatabaseFailed) else error
    return isinstance(getattr(database_error, "__cause__", None), DeadlockDetected)
