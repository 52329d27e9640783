"""Additions to tables that others are writing at the same moment, and the way back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import InternalError, OperationalError, ProgrammingError, connection, transaction
from psycopg.errors import LockNotAvailable

logger = logging.getLogger(__name__)

# How long a step may wait for a lock while everybody else waits behind it, how long it then lets them go on, and how
# often it comes back.
LOCK_TIMEOUT = "250ms"
PAUSE = 1.0
ATTEMPTS = 240


@dataclass(frozen=True)
class Step:
    """
    One addition to ``table``.

    ``probe`` reads how the addition stands in the database. As long as it says what it said when the addition was made,
    the addition is ours, and ``undo`` takes it back.
    """

    table: str
    what: str
    sql: str
    undo: str
    probe: str
    concurrently: bool = False


def apply(steps: Collection[Step]) -> None:
    """
    Make all additions, each in a transaction of its own, and record how to undo it.

    It can be interrupted and called again with what is then still lacking.

    :raises OperationalError: a table was locked by others for some five minutes.
    """
    _execute(
        """
        CREATE TABLE IF NOT EXISTS call_adoption (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            what text NOT NULL, undo text NOT NULL, probe text NOT NULL, stood_as text
        );
        ALTER TABLE call_adoption ENABLE ROW LEVEL SECURITY
        """
    )
    for step in steps:
        if step.concurrently:
            # The record first, since this can be interrupted; and what an interruption left is an index by name alone.
            _record(step, "NULL")
            _execute(step.undo)
            _execute(step.sql)
            _record(step, step.probe)
        else:
            briefly(partial(_add, step))
    for table in sorted({step.table for step in steps if step.concurrently}):
        # An index on an expression has no statistics yet, and the planner would not know what it is good for.
        _execute(f"ANALYZE {table}")


def _add(step: Step) -> None:
    _execute(step.sql)
    _record(step, step.probe)


def _record(step: Step, stands_as: str) -> None:
    what = f"{step.table}: {step.what}"
    _execute("DELETE FROM call_adoption WHERE what = %s", what)
    _execute(
        f"INSERT INTO call_adoption (what, undo, probe, stood_as) SELECT %s, %s, %s, ({stands_as})",
        *(what, step.undo, step.probe),
    )


def undo() -> None:
    """
    Take back what :func:`apply` has added, the last first, so that the tables are as they were.

    What somebody has changed since is theirs, and left alone; so is what their own objects have come to depend on.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT what, undo, probe, stood_as FROM call_adoption ORDER BY id DESC")
        additions = cursor.fetchall()
        for what, sql, probe, stood_as in additions:
            cursor.execute(f"SELECT ({probe})")
            stands_as = cursor.fetchone()[0]
            if stood_as is not None and stands_as is None:
                continue
            if stood_as is not None and stands_as != stood_as:
                logger.warning("left alone, since it was changed: %s", what)
                continue
            try:
                if "CONCURRENTLY" in sql:
                    _execute(sql)
                else:
                    briefly(partial(_execute, sql))
            except (InternalError, ProgrammingError) as error:
                logger.warning("left alone: %s (%s)", what, type(error.__cause__).__name__)
    _execute("DROP TABLE call_adoption")


def briefly(work: Callable[[], None]) -> None:
    """
    Do ``work`` in a transaction that waits for each lock no longer than a quarter of a second.

    Whoever waits for such a lock makes everybody else wait behind it. So it is given up soon, they go on, and the next
    try begins a second later.

    :raises OperationalError: it was not to be had for some five minutes: somebody's transaction is that long.
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
