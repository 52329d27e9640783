"""Additions to tables that others are writing at the same moment, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

# How long a step may wait for a lock while everybody else waits behind it, how long it then lets them go on, and how
# often it comes back.
LOCK_TIMEOUT = "500ms"
PAUSE = 1.0
ATTEMPTS = 300


@dataclass(frozen=True)
class Step:
    """One addition to ``table``. ``undo`` takes it back, and does no harm where the addition was never made."""

    table: str
    what: str
    sql: str
    undo: str
    concurrently: bool = False


def apply(steps: Iterable[Step]) -> None:
    """
    Make all additions, each in a transaction of its own, and record how to undo it.

    It can be interrupted and called again with what is then still lacking.

    :raises OperationalError: a table was locked by others for five minutes.
    """
    _execute(
        """
        CREATE TABLE IF NOT EXISTS call_adoption (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL, undo text NOT NULL
        );
        ALTER TABLE call_adoption ENABLE ROW LEVEL SECURITY
        """
    )
    for step in steps:
        if step.concurrently:
            # First the record: an index whose building was interrupted is there, and is none.
            _record(step)
            _execute(step.undo)
            _execute(step.sql)
        else:
            briefly(partial(_add, step))


def _add(step: Step) -> None:
    _record(step)
    _execute(step.sql)


def _record(step: Step) -> None:
    _execute("INSERT INTO call_adoption (what, undo) VALUES (%s, %s)", f"{step.table}: {step.what}", step.undo)


def undo() -> None:
    """Take back all that :func:`apply` has ever added, the last first, so that the tables are as they were."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT undo FROM call_adoption ORDER BY id DESC")
        statements = [sql for (sql,) in cursor.fetchall()]
    for sql in statements:
        if "CONCURRENTLY" in sql:
            _execute(sql)
        else:
            briefly(partial(_execute, sql))
    _execute("DROP TABLE call_adoption")


def briefly(work: Callable[[], None]) -> None:
    """
    Do ``work`` in a transaction that stops other writers, but none of them for longer than half a second.

    Whoever waits for such a lock makes everybody else wait behind it. So it is given up soon, they go on, and the next
    try begins a second later.

    :raises OperationalError: it was not to be had for five minutes: somebody's transaction is that long.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
                work()
                return
        except OperationalError as error:
            if attempt == ATTEMPTS or not isinstance(error.__cause__, LockNotAvailable):
                raise
        time.sleep(PAUSE)


def _execute(sql: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
