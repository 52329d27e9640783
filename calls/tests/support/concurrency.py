"""Threads that tests can pause in the middle of a transaction, and other services that write by SQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from django.db import connection, connections
from psycopg.errors import DeadlockDetected

from calls.exceptions import DatabaseFailed
from calls.models import CallBatch
from calls.tests.support.factories import cancel, plain_connection

# Seconds after which a test fails instead of waiting any longer.
TIMEOUT = 60.0

# Finds the backends of this database that wait for a lock.
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

# Parts of our own statements, for PausedThread(after=…).
BATCH_SELECT = "FROM call_batches WHERE id = %s"
BATCH_LOCK = "FROM call_batches WHERE id = %s FOR UPDATE"
BATCH_UPDATE = 'UPDATE "call_batches"'
COUNTERS_UPDATE = "UPDATE call_batches SET"
CONTACT_UPDATE = 'UPDATE "campaign_contacts"'
CONTACT_CHOSEN = "FROM campaign_contacts AS contact"
CONTACT_CLAIMED = "UPDATE campaign_contacts AS contact"

# Statements of other services.
CLAIM_BY_SQL = "UPDATE campaign_contacts SET status = 'in_progress' WHERE id = %s"
CLAIM_AND_COUNT_BY_SQL = """
    UPDATE campaign_contacts SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = now() WHERE id = %s
"""
ADD_CONTACT_BY_SQL = """
    INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number)
    SELECT agency_id, campaign_id, id, '+12125550100' FROM call_batches WHERE id = %s
"""


class PausedThread(threading.Thread):
    """
    A thread that runs ``work`` on its own database connection and pauses after the statement that contains ``after``.

    If several statements contain it, the thread pauses after the one with the number ``nth``.
    ``outcome`` is what ``work`` returned or raised. ``attempts`` counts the statements that contained ``after``. As a
    context manager it starts the thread and waits until it has paused. At the end of the block it resumes the thread
    and waits for the outcome.
    """

    def __init__(self, work: Callable[[], Any], *, after: str | None = None, nth: int = 1) -> None:
        super().__init__(daemon=True)
        self._work, self._after, self._nth = work, after, nth
        self._paused, self._resumed = threading.Event(), threading.Event()
        self.outcome: Any = None
        self.attempts = 0

    def run(self) -> None:
        try:
            with connection.execute_wrapper(self._pause_after):
                self.outcome = self._work()
        except Exception as error:  # noqa: BLE001 - the exception is the outcome
            self.outcome = error
        finally:
            connections.close_all()
            self._paused.set()

    def _pause_after(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if self._after and self._after in sql:
            self.attempts += 1
            if self.attempts >= self._nth:
                self._paused.set()
                assert self._resumed.wait(TIMEOUT)
        return result

    def let_go(self) -> None:
        """Resume the thread without waiting for its outcome."""
        self._resumed.set()

    def release(self) -> Any:
        """Resume the thread and return its outcome."""
        self.let_go()
        self.join(TIMEOUT)
        assert not self.is_alive()
        return self.outcome

    def __enter__(self) -> PausedThread:
        self.start()
        if self._after:
            assert self._paused.wait(TIMEOUT)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class OtherServiceThread(threading.Thread):
    """
    Another service that runs one SQL statement in its own transaction.

    ``error`` is the SQLSTATE of the error that the statement raised, or None.
    """

    def __init__(self, statement: tuple[str, list[Any]]) -> None:
        super().__init__(daemon=True)
        self._statement = statement
        self._connected = threading.Event()
        self.error: str | None = None
        self.pid = 0

    def run(self) -> None:
        with plain_connection() as plain:
            self.pid = plain.info.backend_pid
            self._connected.set()
            try:
                plain.execute(*self._statement)
            except psycopg.Error as error:
                self.error = error.sqlstate

    def start(self) -> OtherServiceThread:
        super().start()
        assert self._connected.wait(TIMEOUT)
        return self

    def result(self) -> str | None:
        """Wait for the statement and return ``error``."""
        self.join(TIMEOUT)
        assert not self.is_alive()
        return self.error


def cancel_during_write(batch: CallBatch, sql: str, parameters: list[Any]) -> Any:
    """Cancel while another service has changed one row but not committed it. Return the cancel's outcome."""
    with plain_connection() as plain, plain.transaction():
        assert plain.execute(sql, parameters).rowcount == 1
        cancelling = PausedThread(lambda: cancel(batch))
        cancelling.start()
        assert wait_for_lock_waiter()
    return cancelling.release()


def lose_connection_while_looking(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    """An execute wrapper: the server ends this session when it looks for the transactions that write contacts."""
    if "pg_locks" in sql:
        with plain_connection() as plain:
            plain.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    return execute(sql, params, many, context)


def is_deadlock(outcome: Any) -> bool:
    """Return whether a verb failed because PostgreSQL chose its transaction as a deadlock victim."""
    database_error = outcome.__cause__ if isinstance(outcome, DatabaseFailed) else None
    return isinstance(getattr(database_error, "__cause__", None), DeadlockDetected)


def until(condition: Callable[[], object]) -> None:
    """Wait until another thread or process has made ``condition`` true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_lock_waiter(pid: int | None = None, *, count: int = 1) -> bool:
    """
    Wait up to 3 s until the backend ``pid``, or ``count`` backends of this database, wait for a lock.

    Return whether they did.
    """
    deadline = time.monotonic() + 3
    with plain_connection() as plain:
        while time.monotonic() < deadline:
            waiting = plain.execute(WAITING + (" AND pid = %s" if pid else ""), [pid] if pid else None).fetchall()
            if len(waiting) >= count:
                return True
            time.sleep(0.01)
    return False
