"""What a cancel, and days of dialling, leave behind in the contacts' table and its indexes."""

from __future__ import annotations

from django.db import connection

from benchmarks.measuring import fill, fresh, prepare, settle, table
from calls.database.adoption.storage import STORAGE
from calls.models import CallBatch
from calls.tests.support.factories import Tenant, cancel

CONTACTS, DIALLED, CHUNK = 1_000_000, 300_000, 1_000
NEXT = """
    SELECT id FROM campaign_contacts WHERE batch_id = %s AND completed_at IS NULL AND status = 'queued'
    ORDER BY completed_at, created_at, id LIMIT %s
"""
# What becomes of a contact: claimed, its call recorded, and over.
LIFE = [
    "UPDATE campaign_contacts SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = clock_timestamp(),"
    " outcome = NULL, updated_at = now() WHERE id = ANY (%s)",
    "UPDATE campaign_contacts SET call_id = gen_random_uuid(), updated_at = now() WHERE id = ANY (%s)",
    "UPDATE campaign_contacts SET status = 'completed', outcome = 'answered', completed_at = now(), updated_at = now()"
    " WHERE id = ANY (%s)",
]


def sizes() -> tuple[str, ...]:
    """Of the rows and of all indexes, and how many versions are dead."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_relation_size(%s), pg_indexes_size(%s)", ["campaign_contacts"] * 2)
        heap, indexes = cursor.fetchone()
        cursor.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'campaign_contacts'")
        (dead,) = cursor.fetchone()
    return f"{heap / 2**20:,.0f} MB", f"{indexes / 2**20:,.0f} MB", f"{dead:,}"


def dial(batch: CallBatch, contacts: int) -> None:
    """As days of dialling would, only that a thousand contacts at a time go through it."""
    for _ in range(contacts // CHUNK):
        with connection.cursor() as cursor:
            cursor.execute(NEXT, [batch.pk, CHUNK])
            ids = [pk for (pk,) in cursor.fetchall()]
            for statement in LIFE:
                cursor.execute(statement, [ids])


def cancelled(tenant: Tenant, pages: str) -> None:
    row = table(f"{CONTACTS:,} contacts, {pages}", "rows", "indexes", "dead")
    (batch,) = fresh(tenant, 1)
    fill("campaign_contacts", [batch], CONTACTS)
    settle("campaign_contacts")
    row("waiting", *sizes())
    cancel(batch)
    row("cancelled", *sizes())
    settle("campaign_contacts")
    row("after a VACUUM", *sizes())


def dialled(tenant: Tenant, scale_factor: float) -> None:
    """Of a table with as many others that nobody touches."""
    row = table(f"{CONTACTS:,} contacts, autovacuum at {scale_factor:.0%}", "rows", "indexes", "dead")
    batch, other = fresh(tenant, 2)
    fill("campaign_contacts", [other], CONTACTS - DIALLED)
    fill("campaign_contacts", [batch], DIALLED)
    settle("campaign_contacts")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE campaign_contacts SET (autovacuum_vacuum_scale_factor = {scale_factor})")
        cursor.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        cursor.execute("SELECT pg_reload_conf()")
    row("waiting", *sizes())
    dial(batch, DIALLED)
    row(f"{DIALLED:,} dialled", *sizes())
    settle("campaign_contacts")
    with connection.cursor() as cursor:
        cursor.execute("REINDEX TABLE campaign_contacts")
    row("after a REINDEX", *sizes())


def main() -> None:
    tenant = prepare()
    cancelled(tenant, "as it is")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE campaign_contacts SET (fillfactor = 100)")
    cancelled(tenant, "pages filled")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE campaign_contacts SET (fillfactor = {STORAGE['campaign_contacts']['fillfactor']})")
    for scale_factor in (0.2, 0.02):
        dialled(tenant, scale_factor)


if __name__ == "__main__":
    main()
