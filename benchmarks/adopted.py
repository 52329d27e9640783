"""
What a cancel costs in an adopted database, before and after following the advice of check_database.

The first table compares the whole method ``cancel`` in three databases: one that the app created, one that another
service created and the app adopted, and a copy of it in which every statement of the advice was run. Its contacts were
stored before the adoption or after it. The second table has the UPDATE of a cancel on copies of the app's own table,
each with one object of another service. The third has what the contacts' publication sends, on a server with
``wal_level = logical``.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection

from agency_backend import embedded
from benchmarks.cancel import UPDATE_CONTACTS
from benchmarks.layout import CREATE_GUARD, create_copies
from benchmarks.measuring import create_tenant, median_ratio, start_table, time_in_turns
from calls.audit import Source
from calls.database.adoption.costs import CONTACTS, UNLESS_SKIPPED, costs_of_cancel
from calls.models import CallBatch
from calls.tests.support.factories import ROOT, STAFF_ACTOR, Tenant, plain_connection
from calls.tests.support.legacy_database import Database, legacy_database

ADOPTED_SCHEMA = (ROOT / "calls/tests/support/supabase_database.sql").read_text()

INSERT_BATCH = """
    INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number, status, total_contacts, queued)
    SELECT c.agency_id, c.id, m.id, '+12125550199', 'processing', %(contacts)s, %(contacts)s
    FROM campaigns c JOIN agent_mappings m USING (agency_id) LIMIT 1 RETURNING id
"""
# Only columns that exist before an adoption, and ids by default, as other services insert.
INSERT_CONTACTS = """
    INSERT INTO campaign_contacts (
        agency_id, campaign_id, batch_id, phone_number, first_name, last_name, email, company, custom_data, status
    )
    SELECT agency_id, campaign_id, id, '+1212' || lpad(number::text, 7, '0'), 'Amara', 'Lindqvist-' || number,
        'amara.' || number || '@example.com', 'Harbour & Pine',
        jsonb_build_object('policy', 'A-' || number, 'plan', 'gold'), 'queued'
    FROM call_batches, generate_series(1, %s) AS number WHERE id = %s
"""
OWN, AS_IT_COMES, ADVISED = "the app's own", "adopted", "adopted, advice followed"
BEFORE, AFTER = "before the adoption", "after the adoption"
# Contacts of a batch, and rounds: each of the three databases comes first once.
SIZE, ROUNDS = 100_000, 3
LARGE_SIZE = 1_000_000
REQUIRED = 1.2

CREATE_COPY = [
    f"CREATE TABLE {{name}} (LIKE {CONTACTS} INCLUDING ALL) WITH (fillfactor = 45)",
    CREATE_GUARD,
]
CREATE_FUNCTIONS = """
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'
"""
BEFORE_UPDATE = "CREATE TRIGGER theirs BEFORE UPDATE ON {name} FOR EACH ROW"
AFTER_UPDATE = "CREATE TRIGGER theirs AFTER UPDATE ON {name} FOR EACH ROW"
VARIANTS = {
    OWN: CREATE_COPY,
    "index on status": [*CREATE_COPY, "CREATE INDEX ON {name} (status)"],
    "index with a condition on status": [*CREATE_COPY, "CREATE INDEX ON {name} (batch_id) WHERE status = 'queued'"],
    "index on updated_at": [*CREATE_COPY, "CREATE INDEX ON {name} (updated_at)"],
    "full pages": [*CREATE_COPY, "ALTER TABLE {name} SET (fillfactor = 100)"],
    "BEFORE trigger that sets updated_at": [*CREATE_COPY, f"{BEFORE_UPDATE} EXECUTE FUNCTION touch()"],
    "the same, unless skipped": [*CREATE_COPY, f"{BEFORE_UPDATE} WHEN ({UNLESS_SKIPPED}) EXECUTE FUNCTION touch()"],
    "AFTER trigger that does nothing": [*CREATE_COPY, f"{AFTER_UPDATE} EXECUTE FUNCTION nothing()"],
    "AFTER trigger, unless skipped": [
        *CREATE_COPY,
        f"{AFTER_UPDATE} WHEN ({UNLESS_SKIPPED}) EXECUTE FUNCTION nothing()",
    ],
}

PUBLISHED = {
    "not published": ("call_batches", "DEFAULT"),
    "published": (CONTACTS, "DEFAULT"),
    "published, REPLICA IDENTITY FULL": (CONTACTS, "FULL"),
}


def add_batch(database: Database, contacts: int) -> str:
    """Add a batch in the way of another service, and return its id."""
    with database.connect() as plain:
        return str(insert_batch(plain, contacts))


def insert_batch(plain: psycopg.Connection[Any], contacts: int) -> Any:
    (batch,) = plain.execute(INSERT_BATCH, {"contacts": contacts}).fetchall()[0]
    plain.execute(INSERT_CONTACTS, [contacts, batch])
    return batch


def migrate(database: Database) -> None:
    """Create the app's tables, or adopt those that exist."""
    process = database.start("migrate", "--fake-initial", "--verbosity", "0")
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)


def seconds_of_cancel(database: Database, batch: str) -> float:
    """Cancel the batch, and return the time without connecting to the database."""
    with database.as_default():
        connection.ensure_connection()
        started = time.perf_counter()
        CallBatch(pk=batch).cancel(actor=STAFF_ACTOR, source=Source.COMMAND)
        return time.perf_counter() - started


def follow_advice(database: Database) -> None:
    """Run the statements that check_database prints, and print them."""
    with database.as_default():
        advice = [statement for cost in costs_of_cancel(CONTACTS) for statement in cost.statements]
    with database.connect() as plain:
        for statement in advice:
            print(f"advice: {statement}", flush=True)
            plain.execute(statement)
    with database.as_default():
        if left := costs_of_cancel(CONTACTS):
            raise SystemExit(f"the advice did not help: {left}")


@contextmanager
def filled_databases(contacts: int, rounds: int) -> Iterator[tuple[dict[str, Database], dict[str, list[str]]]]:
    """Create the three databases, and return them and their batches. Each name has ``rounds`` batches."""
    with legacy_database(schema="") as own, legacy_database(schema=ADOPTED_SCHEMA) as adopted:
        migrate(own)
        with own.as_default():
            Tenant.create("harbour")
        before = [add_batch(adopted, contacts) for _ in range(rounds)]
        adopted.query("VACUUM ANALYZE")
        migrate(adopted)
        with legacy_database(schema="", template=adopted.name) as advised:
            follow_advice(advised)
            batches = [add_batch(own, contacts) for _ in range(rounds)]
            yield (
                {OWN: own, AS_IT_COMES: adopted, ADVISED: advised},
                {OWN: batches, AS_IT_COMES: before, ADVISED: before},
            )


def compare_databases(contacts: int, rounds: int, *, add_new: bool) -> None:
    """
    Print the table of the three databases.

    :param add_new: compare contacts that are stored after the adoption, too.
    """
    with filled_databases(contacts, rounds) as (databases, batches):
        print_row = start_table("database", "contacts", "stored", "cancel", "ratio", "required")
        compare_cancels(print_row, BEFORE, contacts, databases, batches)
        if add_new:
            added = {
                name: [add_batch(database, contacts) for _ in range(rounds)] for name, database in databases.items()
            }
            compare_cancels(print_row, AFTER, contacts, databases, added)


def compare_cancels(
    print_row: Callable[..., None],
    stored: str,
    contacts: int,
    databases: dict[str, Database],
    batches: dict[str, list[str]],
) -> None:
    """Cancel all batches in turns, and print one row for each database."""
    seconds: dict[str, list[float]] = {name: [] for name in databases}
    names = list(databases)
    for number in range(len(batches[OWN])):
        for database in databases.values():
            database.query(f"VACUUM ANALYZE {CONTACTS}")
        databases[OWN].query("CHECKPOINT")
        for name in names[number:] + names[:number]:
            seconds[name].append(seconds_of_cancel(databases[name], batches[name][number]))
    for name, measured in seconds.items():
        print_row(
            name,
            f"{contacts:,}",
            "" if name == OWN else stored,
            f"{statistics.median(measured) * 1000:,.0f} ms",
            f"{median_ratio(measured, seconds[OWN]):.2f}",
            f"≤ {REQUIRED:.1f}" if name == ADVISED else "",
        )


def compare_objects(tenant: Tenant, contacts: int, rounds: int) -> None:
    print_row = start_table("the table, with", "contacts", "UPDATE", "ratio")
    with plain_connection() as plain:
        plain.execute(CREATE_FUNCTIONS)

        def cancel(copy: tuple[str, CallBatch]) -> None:
            name, batch = copy
            plain.execute(UPDATE_CONTACTS.format(name), [batch.pk])

        seconds = time_in_turns(
            rounds,
            partial(create_copies, tenant, plain, contacts, list(VARIANTS.values())),
            dict.fromkeys(VARIANTS, cancel),
        )
    for variant, measured in seconds.items():
        milliseconds = statistics.median(measured) * 1000
        print_row(
            variant,
            f"{contacts:,}",
            f"{milliseconds:,.0f} ms",
            f"{median_ratio(measured, seconds[OWN]):.2f}",
        )


@contextmanager
def logical_server() -> Iterator[psycopg.Connection[Any]]:
    """Start another server with ``wal_level = logical``."""
    with tempfile.TemporaryDirectory(prefix="logical-") as folder:
        data = Path(folder) / "data"
        server = embedded.start(data, temporary=True)
        with psycopg.connect(server.get_uri(), autocommit=True) as plain:
            plain.execute("ALTER SYSTEM SET wal_level = logical")
        server.cleanup()
        server = embedded.start(data)
        try:
            # A slot sees only what has been written to the log.
            with psycopg.connect(server.get_uri(), autocommit=True, options="-c synchronous_commit=on") as plain:
                yield plain
        finally:
            server.cleanup()


def compare_publications(contacts: int, rounds: int) -> None:
    print_row = start_table("contacts", "number", "UPDATE", "ratio", "WAL", "events", "sent", "decoding")
    results: dict[str, list[tuple[float, float, int, int, float]]] = {name: [] for name in PUBLISHED}
    with logical_server() as plain:
        plain.execute(ADOPTED_SCHEMA)
        plain.execute("SELECT pg_create_logical_replication_slot('subscriber', 'pgoutput')")
        for _ in range(rounds):
            for name, (table, identity) in PUBLISHED.items():
                plain.execute(f"ALTER PUBLICATION supabase_realtime SET TABLE {table}")
                plain.execute(f"ALTER TABLE {CONTACTS} REPLICA IDENTITY {identity}")
                results[name].append(publish_cancel(plain, contacts))
    base = [result[0] for result in results["not published"]]
    for name, measured in results.items():
        update, wal, events, sent, decoding = (statistics.median(column) for column in zip(*measured, strict=True))
        print_row(
            name,
            f"{contacts:,}",
            f"{update * 1000:,.0f} ms",
            f"{median_ratio([result[0] for result in measured], base):.2f}",
            f"{wal / 2**20:,.0f} MB",
            f"{events:,.0f}",
            f"{sent / 2**20:,.1f} MB",
            f"{decoding * 1000:,.0f} ms",
        )


def publish_cancel(plain: psycopg.Connection[Any], contacts: int) -> tuple[float, float, int, int, float]:
    """
    Cancel a new batch by the UPDATE, and read what the publication sends to a subscriber.

    :return: the UPDATE's seconds and bytes of WAL, and the events, their bytes and the seconds to decode them.
    """
    read = (
        "SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('U')), coalesce(sum(length(data)), 0)"
        " FROM pg_logical_slot_get_binary_changes('subscriber', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'supabase_realtime')"
    )
    batch = insert_batch(plain, contacts)
    plain.execute(f"VACUUM ANALYZE {CONTACTS}")
    plain.execute("CHECKPOINT")
    plain.execute(read)
    ((lsn,),) = plain.execute("SELECT pg_current_wal_insert_lsn()").fetchall()
    started = time.perf_counter()
    plain.execute(UPDATE_CONTACTS.format(CONTACTS), [batch])
    updated = time.perf_counter() - started
    ((wal,),) = plain.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [lsn]).fetchall()
    started = time.perf_counter()
    ((events, sent),) = plain.execute(read).fetchall()
    return updated, float(wal), events, int(sent), time.perf_counter() - started


def main() -> None:
    logging.disable(logging.INFO)
    tenant = create_tenant()
    compare_databases(SIZE, ROUNDS, add_new=True)
    compare_objects(tenant, SIZE, ROUNDS)
    compare_publications(SIZE, ROUNDS)
    compare_databases(LARGE_SIZE, 1, add_new=False)


if __name__ == "__main__":
    main()
