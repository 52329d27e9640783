"""Two at once, on purpose: a thread that is held inside the lock, and a way to know that another one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from django.db import connection, connections

from calls.models import CallBatch
from calls.tests.support.factories import cancel, plain_connection

PATIENCE = 60.0

# Who waits for a lock in a database.
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
# The statement of a claim, to be held after it.
CLAIMED = 'UPDATE "campaign_contacts"'

# What other services write.
CLAIM = "UPDATE campaign_contacts SET status = 'in_progress' WHERE id = %s"
ADD = """
    INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number)
    SELECT agency_id, campaign_id, id, '+12125550100' FROM call_batches WHERE id = %s
"""


class PausedThread(threading.Thread):
    """
    Runs ``work`` on a database connection of its own and holds it right after the statement that contains ``after``.

    ``outcome`` is what it returned or raised. As a context manager it starts, waits until the work is held, and at
    the end lets it go and waits for its outcome.
    """

    def __init__(self, work: Callable[[], Any], *, after: str | None = None) -> None:
        super().__init__(daemon=True)
        self._work, self._after = work, after
        self._reached, self._released = threading.Event(), threading.Event()
        self.outcome: Any = None
        self.attempts = 0

    def run(self) -> None:
        try:
            with connection.execute_wrapper(self._hold):
                self.outcome = self._work()
        except Exception as error:  # noqa: BLE001 - that it was raised is the outcome
            self.outcome = error
        finally:
            connections.close_all()
            self._reached.set()

    def _hold(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if self._after and self._after in sql:
            self.attempts += 1
            self._reached.set()
            assert self._released.wait(PATIENCE)
        return result

    def let_go(self) -> None:
        """Let the work go on, and do not wait for it."""
        self._released.set()

    def release(self) -> Any:
        """Let the work go on, and give back its outcome."""
        self.let_go()
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.outcome

    def __enter__(self) -> PausedThread:
        self.start()
        if self._after:
            assert self._reached.wait(PATIENCE)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class ForeignWriter(threading.Thread):
    """
    Another service: runs one SQL statement in a transaction of its own.

    ``error`` is the SQLSTATE that ended it, or None.
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

    def start(self) -> ForeignWriter:
        super().start()
        assert self._connected.wait(PATIENCE)
        return self

    def result(self) -> str | None:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.error


def foreign_first(batch: CallBatch, sql: str, parameters: list[Any]) -> Any:
    """Another service has changed one row but not committed when cancel comes and waits; cancel's outcome."""
    with plain_connection() as plain, plain.transaction():
        assert plain.execute(sql, parameters).rowcount == 1
        cancelling = PausedThread(lambda: cancel(batch))
        cancelling.start()
        assert wait_for_lock_waiter()
    return cancelling.release()


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread or process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_lock_waiter(pid: int | None = None) -> bool:
    """Wait until a backend of this test's database waits for a lock: that one, or any. False if none does for 3 s."""
    deadline = time.monotonic() + 3
    with plain_connection() as plain:
        while time.monotonic() < deadline:
            if plain.execute(WAITING + (" AND pid = %s" if pid else ""), [pid] if pid else None).fetchone():
                return True
            time.sleep(0.01)
    return False
