"""
What each part of the contacts' table costs a cancel: the same UPDATE on copies that have one part more, or another.

All beside a copy with the primary key and an index on (batch_id, id) alone, of whose pages half is left free.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg

from benchmarks.cancel import CONTACTS
from benchmarks.measuring import fill, fresh, in_turns, prepare, ratio, settle, table
from calls.models import CallBatch
from calls.tests.support.factories import Tenant, plain_connection

LIKE = "CREATE TABLE {name} (LIKE campaign_contacts INCLUDING DEFAULTS)"
OF_BATCH = "(batch_id, id)"
ATTEMPTED = "((CASE WHEN last_attempt_at IS NOT NULL THEN batch_id END), last_attempt_at)"
UNDER_WAY = "((CASE WHEN last_attempt_at IS NOT NULL AND outcome IS NULL THEN batch_id END))"
NOT_OVER = "(batch_id, completed_at, created_at, id) WHERE completed_at IS NULL"
WAITING = "(batch_id, created_at, id) WHERE status IN ('pending', 'queued', 'scheduled')"
# The trigger that fires on updates, as the real table has it.
GUARD = """
    DO $$ BEGIN EXECUTE (
        SELECT replace(pg_get_triggerdef(oid), 'public.campaign_contacts', '{name}') FROM pg_trigger
        WHERE tgrelid = 'campaign_contacts'::regclass AND tgname LIKE 'pgtrigger_contact_%' AND tgtype & 16 > 0
    ); END $$
"""
PARTITIONS = 16


def copy(*indexes: str, fillfactor: int = 50) -> list[str]:
    """The columns and their defaults, a primary key, and these indexes."""
    return [
        f"{LIKE} WITH (fillfactor = {fillfactor})",
        "ALTER TABLE {name} ADD PRIMARY KEY (id)",
        *(f"CREATE INDEX ON {{name}} {index}" for index in indexes),
    ]


VARIANTS = {
    "base": copy(OF_BATCH),
    "pages filled": copy(OF_BATCH, fillfactor=100),
    "pages filled to 70 %": copy(OF_BATCH, fillfactor=70),
    "pages filled to 45 %": copy(OF_BATCH, fillfactor=45),
    "index in the order of the list instead": copy("(batch_id, created_at, id)"),
    "index on phone numbers": copy(OF_BATCH, "(phone_number)"),
    "index of those under way": copy(OF_BATCH, UNDER_WAY),
    "index of those attempted": copy(OF_BATCH, ATTEMPTED),
    "index of those not over": copy(OF_BATCH, NOT_OVER),
    "index of those waiting, by status": copy(OF_BATCH, WAITING),
    "index on the status": copy(OF_BATCH, "(status)"),
    "CHECK of the status": [
        *copy(OF_BATCH),
        "ALTER TABLE {name} ADD CHECK (status IN ('pending', 'queued', 'scheduled', 'in_progress', 'completed',"
        " 'failed', 'skipped'))",
    ],
    "the guard of the contacts": [*copy(OF_BATCH), GUARD],
    f"{PARTITIONS} partitions by agency": [
        f"{LIKE} PARTITION BY HASH (agency_id)",
        *(
            f"CREATE TABLE {{name}}_{number} PARTITION OF {{name}} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER"
            f" {number}) WITH (fillfactor = 50)"
            for number in range(PARTITIONS)
        ),
        "ALTER TABLE {name} ADD PRIMARY KEY (agency_id, id)",
        f"CREATE INDEX ON {{name}} {OF_BATCH}",
    ],
}
THE_REAL_ONE = "the real table, all of it"


def copies(
    tenant: Tenant, plain: psycopg.Connection[Any], contacts: int, variants: Sequence[str], number: int
) -> Sequence[tuple[str, CallBatch]]:
    """A table of each variant, with a batch of its own in it."""
    subjects = []
    for index, (variant, batch) in enumerate(zip(variants, fresh(tenant, number), strict=True)):
        name = "campaign_contacts"
        if variant != THE_REAL_ONE:
            name = f"variant_{index}"
            plain.execute(f"DROP TABLE IF EXISTS {name}")
            for statement in VARIANTS[variant]:
                plain.execute(statement.format(name=name))
        fill(name, [batch], contacts)
        subjects.append((name, batch))
    settle(*(name for name, _ in subjects))
    return subjects


def main() -> None:
    tenant = prepare()
    row = table("the contacts' table", "contacts", "UPDATE", "beside base")
    with plain_connection() as plain:

        def cancel(subject: tuple[str, CallBatch]) -> None:
            name, batch = subject
            plain.execute(CONTACTS.format(name), [batch.pk])

        for contacts, rounds, variants in (
            (100_000, 5, [*VARIANTS, THE_REAL_ONE]),
            (1_000_000, 3, ["base", THE_REAL_ONE]),
        ):
            taken = in_turns(
                rounds, partial(copies, tenant, plain, contacts, variants), dict.fromkeys(variants, cancel)
            )
            for variant in variants:
                milliseconds = statistics.median(taken[variant]) * 1000
                beside = ratio(taken[variant], taken["base"])
                row(variant, f"{contacts:,}", f"{milliseconds:,.0f} ms", f"{beside:.2f}")


if __name__ == "__main__":
    main()
