"""Snapshots of a legacy database, and another service that writes it during a migration."""

import threading
import time

import psycopg

from calls.tests.support.concurrency import WAITING, until
from calls.tests.support.legacy_database import LEGACY_TABLES

COLUMNS = """
    SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2
"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
TRIGGERS = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
SECURITY = """
    SELECT relname, relrowsecurity, relacl::text, reloptions::text FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1
"""


def snapshot(database):
    """Return the definition and the rows of the legacy tables."""
    catalog = [
        [row for row in database.query(sql) if row[0] in LEGACY_TABLES]
        for sql in (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, SECURITY)
    ]
    return catalog + [database.query(f"SELECT * FROM {table} ORDER BY id") for table in sorted(LEGACY_TABLES)]


def first_batch(database):
    """Return the id of a batch of the legacy tables that can be cancelled."""
    return database.query("SELECT id::text FROM call_batches WHERE status = 'processing' ORDER BY id LIMIT 1")[0][0]


class Writer(threading.Thread):
    """
    Another service that writes one row after another and waits for a lock for at most two seconds.

    ``gave_up`` is True if it had to wait longer.
    """

    def __init__(self, database):
        super().__init__(daemon=True)
        self.database, self.done, self.written, self.gave_up = database, threading.Event(), 0, False

    def run(self):
        with self.database.connect(options="-c lock_timeout=2s") as service:
            while not self.done.is_set():
                try:
                    service.execute("UPDATE campaign_contacts SET lead_score = 1 WHERE phone_number = '+12125550001'")
                    service.execute(
                        "INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number)"
                        " SELECT agency_id, campaign_id, agent_mapping_id, '+1' FROM call_batches LIMIT 1"
                    )
                    self.written += 1
                except psycopg.errors.LockNotAvailable:
                    self.gave_up = True

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.done.set()
        self.join()


def run_beside_writers(database, *command):
    """
    Run the command while one service writes and a second service has an open transaction that changed a contact.

    The open transaction ends 5 seconds after another backend waits for it.

    :return: whether the writer gave up waiting for a lock.
    """
    with Writer(database) as writer, database.connect() as long:
        with long.transaction():
            long.execute("UPDATE campaign_contacts SET lead_score = 2 WHERE phone_number = '+12125550002'")
            process = database.start(*command)
            until(lambda: database.query(WAITING))
            time.sleep(5)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert writer.written > 0
    return writer.gave_up
