"""Additions to tables that other services are writing at the same time, and how to undo them."""

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

# A step waits this long for a lock. Other services wait behind it.
STEP_LOCK_TIMEOUT = "250ms"
# Seconds between two attempts, in which other services can continue.
PAUSE = 1.0
# About five minutes in all.
ATTEMPTS = 240


@dataclass(frozen=True)
class Step:
    """
    One addition to ``table``.

    ``probe`` is a query that reads the addition's definition from the catalogs. ``undo`` is only run while the
    definition is still the one that was recorded when the addition was made.
    """

    table: str
    description: str
    sql: str
    undo: str
    probe: str
    concurrently: bool = False


def apply(steps: Collection[Step]) -> None:
    """
    Make the additions, each in a transaction of its own, and record in ``call_adoption`` how to undo them.

    If this is interrupted, call it again with the steps that are then still missing.

    :raises OperationalError: a table stayed locked for about five minutes.
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
            # Record the step first, because an interrupted build leaves an invalid index, which undo must drop too.
            # Then drop such an index of an earlier attempt.
            _record(step, "NULL")
            _execute(step.undo)
            _execute(step.sql)
            _record(step, step.probe)
        else:
            run_with_short_lock_timeout(partial(_add, step))
    for table in sorted({step.table for step in steps if step.concurrently}):
        # A new index on an expression has no statistics, and without them the planner would not use it well.
        _execute(f"ANALYZE {table}")


def _add(step: Step) -> None:
    _execute(step.sql)
    _record(step, step.probe)


def _record(step: Step, definition: str) -> None:
    what = f"{step.table}: {step.description}"
    _forget(what)
    _execute(
        f"INSERT INTO call_adoption (what, undo, probe, stood_as) SELECT %s, %s, %s, ({definition})",
        *(what, step.undo, step.probe),
    )


def undo(*additions: str) -> None:
    """
    Undo the additions that :func:`apply` made, in reverse order, so that the tables are as they were before.

    :param additions: prefixes of the descriptions of the additions to undo. Without any, all of them are undone.

    An addition that was changed since, or that another object depends on, is kept and logged as a warning.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT what, undo, probe, stood_as FROM call_adoption ORDER BY id DESC")
        made = [row for row in cursor.fetchall() if not additions or row[0].startswith(additions)]
        for what, sql, probe, recorded in made:
            cursor.execute(f"SELECT ({probe})")
            current = cursor.fetchone()[0]
            if recorded is not None and current is not None and current != recorded:
                logger.warning("not undone, because it was changed since: %s", what)
            elif recorded is None or current is not None:
                _undo(what, sql)
            _forget(what)
    if not additions:
        _execute("DROP TABLE call_adoption")


def _undo(what: str, sql: str) -> None:
    """Undo one addition. If this is interrupted, its record remains, so that it can be undone later."""
    try:
        if "CONCURRENTLY" in sql:
            _execute(sql)
        else:
            run_with_short_lock_timeout(partial(_execute, sql))
    except (InternalError, ProgrammingError) as error:
        logger.warning("not undone: %s (%s)", what, type(error.__cause__).__name__)


def _forget(what: str) -> None:
    _execute("DELETE FROM call_adoption WHERE what = %s", what)


def run_with_short_lock_timeout(work: Callable[[], None]) -> None:
    """
    Run ``work`` in a transaction that waits for each lock for at most a quarter of a second, and retry it.

    While a transaction waits for a lock that conflicts with writers, every later writer waits behind it. So this
    transaction gives up early, lets the others continue for a second, and tries again.

    :raises OperationalError: a lock was not available for about five minutes, because of a long transaction.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [STEP_LOCK_TIMEOUT])
                work()
                return
        except OperationalError as error:
            if attempt == ATTEMPTS or not isinstance(error.__cause__, LockNotAvailable):
                raise
        time.sleep(PAUSE)


def _execute(sql: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
