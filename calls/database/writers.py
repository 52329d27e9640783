"""Wait for the transactions that are writing a table."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from django.db import connection, transaction

logger = logging.getLogger(__name__)

# How long to wait for other transactions, and how often to look at pg_locks, in seconds.
WAIT = 5.0
POLL_INTERVAL = 0.01

# The transactions that hold a lock for writing on the table, and whether each also holds the advisory lock.
_WRITERS = """
    SELECT virtualtransaction, COALESCE(pid, 0), bool_or(locktype = 'advisory')
    FROM pg_locks
    WHERE granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND pid IS DISTINCT FROM pg_backend_pid()
        AND (
            (
                locktype = 'relation' AND relation = %(table)s::regclass
                AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            )
            OR (
                locktype = 'advisory' AND objsubid = 1
                AND (classid::bigint << 32) | objid::bigint = hashtextextended(%(lock_name)s, 0)
            )
        )
    GROUP BY virtualtransaction, pid
    HAVING bool_or(locktype = 'relation')
"""


@dataclass(frozen=True)
class Writer:
    """
    An open transaction that has locked a table for writing.

    ``virtual_id`` identifies it among the open transactions. ``pid`` is 0 if it was prepared for a two-phase commit.
    ``has_lock`` tells whether it also holds the advisory lock that was asked for.
    """

    virtual_id: str
    pid: int
    has_lock: bool


def wait_for_writers(table: str, *, subject: str, lock_name: str = "") -> list[Writer]:
    """
    Wait until every transaction that is writing ``table`` now has ended, for at most 5 seconds.

    A write that starts later in a READ COMMITTED transaction sees everything that was committed before this call, and
    so do the triggers that it fires. Transactions that are still open are logged as a warning. Call it outside of a
    transaction.

    :param subject: what the wait is for, for the log.
    :param lock_name: the advisory lock that ``Writer.has_lock`` is about.
    :returns: the transactions that are still open.
    """
    deadline = time.monotonic() + WAIT
    open_ = _writers(table, lock_name)
    while open_ and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
        current = _writers(table, lock_name)
        open_ = {virtual_id: writer for virtual_id, writer in current.items() if virtual_id in open_}
    if open_:
        pids = ",".join(str(writer.pid) for writer in open_.values())
        logger.warning("%s outcome=uncertain: transactions are still writing %s, pids=%s", subject, table, pids)
    return list(open_.values())


def _writers(table: str, lock_name: str) -> dict[str, Writer]:
    # In a transaction: if the connection is lost, Django closes it at the end of the block, and reconnects next time.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_WRITERS, {"table": table, "lock_name": lock_name})
        return {row[0]: Writer(*row) for row in cursor.fetchall()}
