"""
The cost of each part of the contacts' table for a cancel: the same UPDATE on copies of the table with one part added.

The base is a copy with the primary key and an index on (batch_id, id) alone, whose pages are half empty.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg

from benchmarks.cancel import UPDATE_CONTACTS
from benchmarks.measuring import (
    add_contacts,
    create_tenant,
    median_ratio,
    new_batches,
    start_table,
    time_in_turns,
    vacuum,
)
from calls.models import CallBatch
from calls.tests.support.factories import Tenant, plain_connection

CREATE_COPY = "CREATE TABLE {name} (LIKE campaign_contacts INCLUDING DEFAULTS)"
BY_BATCH = "(batch_id, id)"
ATTEMPTED = "((CASE WHEN last_attempt_at IS NOT NULL THEN batch_id END), last_attempt_at)"
IN_PROGRESS = "((CASE WHEN last_attempt_at IS NOT NULL AND outcome IS NULL THEN batch_id END))"
UNFINISHED = "(batch_id, completed_at, created_at, id) WHERE completed_at IS NULL"
DIALABLE = "(batch_id, created_at, id) WHERE status IN ('pending', 'queued', 'scheduled')"
# The real table's trigger on UPDATE.
CREATE_GUARD = """
    DO $$ BEGIN EXECUTE (
        SELECT replace(pg_get_triggerdef(oid), 'public.campaign_contacts', '{name}') FROM pg_trigger
        WHERE tgrelid = 'campaign_contacts'::regclass AND tgname LIKE 'pgtrigger_contact_%' AND tgtype & 16 > 0
    ); END $$
"""
PARTITIONS = 16


def copy_with(*indexes: str, fillfactor: int = 50) -> list[str]:
    """Return the statements that create a copy with the columns and their defaults, a primary key and ``indexes``."""
    return [
        f"{CREATE_COPY} WITH (fillfactor = {fillfactor})",
        "ALTER TABLE {name} ADD PRIMARY KEY (id)",
        *(f"CREATE INDEX ON {{name}} {index}" for index in indexes),
    ]


VARIANTS = {
    "base": copy_with(BY_BATCH),
    "fillfactor 100": copy_with(BY_BATCH, fillfactor=100),
    "fillfactor 70": copy_with(BY_BATCH, fillfactor=70),
    "fillfactor 45": copy_with(BY_BATCH, fillfactor=45),
    "index in list order instead": copy_with("(batch_id, created_at, id)"),
    "index on phone_number": copy_with(BY_BATCH, "(phone_number)"),
    "index of calls in progress": copy_with(BY_BATCH, IN_PROGRESS),
    "index of attempted contacts": copy_with(BY_BATCH, ATTEMPTED),
    "index of unfinished contacts": copy_with(BY_BATCH, UNFINISHED),
    "index of dialable contacts, by status": copy_with(BY_BATCH, DIALABLE),
    "index on status": copy_with(BY_BATCH, "(status)"),
    "CHECK on status": [
        *copy_with(BY_BATCH),
        "ALTER TABLE {name} ADD CHECK (status IN ('pending', 'queued', 'scheduled', 'in_progress', 'completed',"
        " 'failed', 'skipped'))",
    ],
    "guard trigger": [*copy_with(BY_BATCH), CREATE_GUARD],
    f"{PARTITIONS} partitions by agency": [
        f"{CREATE_COPY} PARTITION BY HASH (agency_id)",
        *(
            f"CREATE TABLE {{name}}_{number} PARTITION OF {{name}} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER"
            f" {number}) WITH (fillfactor = 50)"
            for number in range(PARTITIONS)
        ),
        "ALTER TABLE {name} ADD PRIMARY KEY (agency_id, id)",
        f"CREATE INDEX ON {{name}} {BY_BATCH}",
    ],
}
REAL_TABLE = "the real table"
# Contacts, rounds, and the variants to compare.
RUNS = [(100_000, 5, [*VARIANTS, REAL_TABLE]), (1_000_000, 3, ["base", REAL_TABLE])]


def create_copies(
    tenant: Tenant, plain: psycopg.Connection[Any], contacts: int, variants: Sequence[Sequence[str] | None], number: int
) -> Sequence[tuple[str, CallBatch]]:
    """
    Create a table with one batch for each variant. Return the name of each table and its batch.

    :param variants: the statements that create each table, or None for the real table.
    """
    copies = []
    for index, (statements, batch) in enumerate(zip(variants, new_batches(tenant, number), strict=True)):
        name = "campaign_contacts"
        if statements is not None:
            name = f"variant_{index}"
            plain.execute(f"DROP TABLE IF EXISTS {name}")
            for statement in statements:
                plain.execute(statement.format(name=name))
        add_contacts(name, [batch], contacts)
        copies.append((name, batch))
    vacuum(*(name for name, _ in copies))
    return copies


def main() -> None:
    tenant = create_tenant()
    print_row = start_table("table", "contacts", "UPDATE", "ratio")
    with plain_connection() as plain:

        def cancel(copy: tuple[str, CallBatch]) -> None:
            name, batch = copy
            plain.execute(UPDATE_CONTACTS.format(name), [batch.pk])

        for contacts, rounds, variants in RUNS:
            seconds = time_in_turns(
                rounds,
                partial(create_copies, tenant, plain, contacts, [VARIANTS.get(variant) for variant in variants]),
                dict.fromkeys(variants, cancel),
            )
            for variant in variants:
                milliseconds = statistics.median(seconds[variant]) * 1000
                ratio = median_ratio(seconds[variant], seconds["base"])
                print_row(variant, f"{contacts:,}", f"{milliseconds:,.0f} ms", f"{ratio:.2f}")


if __name__ == "__main__":
    main()
