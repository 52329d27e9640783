"""Other ways to cancel a batch, compared with the request: same server, same rows."""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from typing import Any

import psycopg
from django.db import connection
from procrastinate import PsycopgConnector
from procrastinate.contrib.django import app

from benchmarks.cancel import cancel_by_request
from benchmarks.measuring import create_tenant, filled_batches, median_ratio, start_table, time_in_turns
from calls.api.authentication import issue_token
from calls.models import CallBatch, CampaignContact
from calls.statuses import ContactStatus
from calls.tests.support.factories import plain_connection
from calls.tests.support.server import database_url, gunicorn

CONTACTS, ROUNDS = 10_000, 3
INSERT_JOBS = """
    INSERT INTO procrastinate_jobs (task_name, queue_name, args, status)
    SELECT 'calls.tasks.dial', 'default', '{}', 'todo' FROM generate_series(1, %s) RETURNING id
"""


def cancel_by_save(batch: CallBatch) -> None:
    for contact in batch.contacts.dialable():
        contact.status, contact.outcome_notes = ContactStatus.SKIPPED, "Batch cancelled"
        contact.save(update_fields=["status", "outcome_notes", "updated_at"])


def cancel_by_bulk_update(batch: CallBatch) -> None:
    contacts = list(batch.contacts.dialable())
    for contact in contacts:
        contact.status, contact.outcome_notes = ContactStatus.SKIPPED, "Batch cancelled"
    CampaignContact.objects.bulk_update(contacts, ["status", "outcome_notes"], batch_size=1_000)


def cancel_like_edge_function(plain: psycopg.Connection[Any], batch: CallBatch) -> None:
    """Select the ids, then update by id. Each statement is its own transaction."""
    select = "SELECT id FROM campaign_contacts WHERE batch_id = %s AND status IN ('pending', 'queued', 'scheduled')"
    ids = [pk for (pk,) in plain.execute(select, [batch.pk])]
    plain.execute(
        "UPDATE campaign_contacts SET status = 'skipped', outcome_notes = 'Batch cancelled', updated_at = now()"
        " WHERE id = ANY (%s)",
        [ids],
    )
    plain.execute(
        "UPDATE call_batches SET status = 'cancelled', skipped = skipped + %s, completed_at = now() WHERE id = %s",
        [len(ids), batch.pk],
    )


def cancel_jobs(batch: CallBatch) -> None:
    """Cancel one job per contact."""

    async def cancel_all() -> None:
        async with app.with_connector(PsycopgConnector(conninfo=database_url())).open_async() as opened:
            for job in jobs:
                await opened.job_manager.cancel_job_by_id_async(job)

    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM procrastinate_jobs WHERE status = 'todo'")
        jobs = [pk for (pk,) in cursor.fetchall()]
    asyncio.run(cancel_all())


def main() -> None:
    tenant = create_tenant()
    token = issue_token(tenant.owner)

    def batches_and_jobs(number: int) -> list[CallBatch]:
        batches = filled_batches(tenant, CONTACTS, number)
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE procrastinate_jobs CASCADE")
            cursor.execute(INSERT_JOBS, [CONTACTS])
            cursor.execute("VACUUM (ANALYZE) procrastinate_jobs")
        return batches

    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server, plain_connection() as plain:
        functions = {
            "the whole request": partial(cancel_by_request, server, token),
            "an edge function: select, update, update": partial(cancel_like_edge_function, plain),
            "`bulk_update`, 1,000 at a time": cancel_by_bulk_update,
            "a loop of `save()`": cancel_by_save,
            "procrastinate: one job per contact, cancelled": cancel_jobs,
        }
        seconds = time_in_turns(ROUNDS, batches_and_jobs, functions)
    print_row = start_table(f"{CONTACTS:,} contacts", "time", "ratio")
    for name, values in seconds.items():
        milliseconds = statistics.median(values) * 1000
        print_row(name, f"{milliseconds:,.0f} ms", f"{median_ratio(values, seconds['the whole request']):.1f}")


if __name__ == "__main__":
    main()
