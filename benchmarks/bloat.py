"""How much a cancel, and days of dialling, enlarge the contacts' table and its indexes."""

from __future__ import annotations

from django.db import connection

from benchmarks.measuring import add_contacts, create_tenant, new_batches, start_table, vacuum
from calls.database.adoption.storage import STORAGE
from calls.models import CallBatch
from calls.tests.support.factories import Tenant, cancel

CONTACTS, DIALLED, CHUNK = 1_000_000, 300_000, 1_000
SELECT_NEXT = """
    SELECT id FROM campaign_contacts WHERE batch_id = %s AND completed_at IS NULL AND status = 'queued'
    ORDER BY completed_at, created_at, id LIMIT %s
"""
# What the dialler writes to a contact: the claim, the recorded call, the outcome.
DIALLER_UPDATES = [
    "UPDATE campaign_contacts SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = clock_timestamp(),"
    " outcome = NULL, updated_at = now() WHERE id = ANY (%s)",
    "UPDATE campaign_contacts SET call_id = gen_random_uuid(), updated_at = now() WHERE id = ANY (%s)",
    "UPDATE campaign_contacts SET status = 'completed', outcome = 'answered', completed_at = now(), updated_at = now()"
    " WHERE id = ANY (%s)",
]


def sizes() -> tuple[str, ...]:
    """Return the size of the rows, the size of all indexes, and the number of dead rows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_relation_size(%s), pg_indexes_size(%s)", ["campaign_contacts"] * 2)
        heap, indexes = cursor.fetchone()
        cursor.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'campaign_contacts'")
        (dead,) = cursor.fetchone()
    return f"{heap / 2**20:,.0f} MB", f"{indexes / 2**20:,.0f} MB", f"{dead:,}"


def dial(batch: CallBatch, contacts: int) -> None:
    """Write what the dialler writes in days, a thousand contacts at a time."""
    for _ in range(contacts // CHUNK):
        with connection.cursor() as cursor:
            cursor.execute(SELECT_NEXT, [batch.pk, CHUNK])
            ids = [pk for (pk,) in cursor.fetchall()]
            for statement in DIALLER_UPDATES:
                cursor.execute(statement, [ids])


def measure_cancel(tenant: Tenant, storage: str) -> None:
    print_row = start_table(f"{CONTACTS:,} contacts, {storage}", "rows", "indexes", "dead")
    (batch,) = new_batches(tenant, 1)
    add_contacts("campaign_contacts", [batch], CONTACTS)
    vacuum("campaign_contacts")
    print_row("queued", *sizes())
    cancel(batch)
    print_row("cancelled", *sizes())
    vacuum("campaign_contacts")
    print_row("after VACUUM", *sizes())


def measure_dialling(tenant: Tenant, scale_factor: float) -> None:
    """Dial a batch of ``DIALLED`` contacts in a table of ``CONTACTS`` contacts. The other contacts stay queued."""
    print_row = start_table(f"{CONTACTS:,} contacts, autovacuum at {scale_factor:.0%}", "rows", "indexes", "dead")
    batch, other = new_batches(tenant, 2)
    add_contacts("campaign_contacts", [other], CONTACTS - DIALLED)
    add_contacts("campaign_contacts", [batch], DIALLED)
    vacuum("campaign_contacts")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE campaign_contacts SET (autovacuum_vacuum_scale_factor = {scale_factor})")
        cursor.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        cursor.execute("SELECT pg_reload_conf()")
    print_row("queued", *sizes())
    dial(batch, DIALLED)
    print_row(f"{DIALLED:,} dialled", *sizes())
    vacuum("campaign_contacts")
    with connection.cursor() as cursor:
        cursor.execute("REINDEX TABLE campaign_contacts")
    print_row("after REINDEX", *sizes())


def main() -> None:
    tenant = create_tenant()
    fillfactor = STORAGE["campaign_contacts"]["fillfactor"]
    measure_cancel(tenant, f"fillfactor {fillfactor}")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE campaign_contacts SET (fillfactor = 100)")
    measure_cancel(tenant, "fillfactor 100")
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE campaign_contacts SET (fillfactor = {fillfactor})")
    for scale_factor in (0.2, 0.02):
        measure_dialling(tenant, scale_factor)


if __name__ == "__main__":
    main()
