"""The ways in which a batch is cancelled elsewhere, beside ours: same server, same rows."""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from typing import Any

import psycopg
from django.db import connection
from procrastinate import PsycopgConnector
from procrastinate.contrib.django import app

from benchmarks.cancel import by_request
from benchmarks.measuring import batches, in_turns, prepare, ratio, table
from calls.api.authentication import issue_token
from calls.models import CallBatch, CampaignContact
from calls.statuses import ContactStatus
from calls.tests.support.factories import plain_connection
from calls.tests.support.server import database_url, gunicorn

CONTACTS, ROUNDS = 10_000, 3
JOBS = """
    INSERT INTO procrastinate_jobs (task_name, queue_name, args, status)
    SELECT 'calls.tasks.dial', 'default', '{}', 'todo' FROM generate_series(1, %s) RETURNING id
"""


def saved_one_by_one(batch: CallBatch) -> None:
    for contact in batch.contacts.dialable():
        contact.status, contact.outcome_notes = ContactStatus.SKIPPED, "Batch cancelled"
        contact.save(update_fields=["status", "outcome_notes", "updated_at"])


def updated_in_bulk(batch: CallBatch) -> None:
    contacts = list(batch.contacts.dialable())
    for contact in contacts:
        contact.status, contact.outcome_notes = ContactStatus.SKIPPED, "Batch cancelled"
    CampaignContact.objects.bulk_update(contacts, ["status", "outcome_notes"], batch_size=1_000)


def in_two_steps(plain: psycopg.Connection[Any], batch: CallBatch) -> None:
    """As an edge function does: what was read is written back, each statement for itself."""
    waiting = "SELECT id FROM campaign_contacts WHERE batch_id = %s AND status IN ('pending', 'queued', 'scheduled')"
    ids = [pk for (pk,) in plain.execute(waiting, [batch.pk])]
    plain.execute(
        "UPDATE campaign_contacts SET status = 'skipped', outcome_notes = 'Batch cancelled', updated_at = now()"
        " WHERE id = ANY (%s)",
        [ids],
    )
    plain.execute(
        "UPDATE call_batches SET status = 'cancelled', skipped = skipped + %s, completed_at = now() WHERE id = %s",
        [len(ids), batch.pk],
    )


def as_jobs(batch: CallBatch) -> None:
    """A job for each contact, each of which is cancelled."""

    async def work() -> None:
        async with app.with_connector(PsycopgConnector(conninfo=database_url())).open_async() as opened:
            for job in waiting:
                await opened.job_manager.cancel_job_by_id_async(job)

    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM procrastinate_jobs WHERE status = 'todo'")
        waiting = [pk for (pk,) in cursor.fetchall()]
    asyncio.run(work())


def main() -> None:
    tenant = prepare()
    token = issue_token(tenant.owner)

    def subjects(number: int) -> list[CallBatch]:
        made = batches(tenant, CONTACTS, number)
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE procrastinate_jobs CASCADE")
            cursor.execute(JOBS, [CONTACTS])
            cursor.execute("VACUUM (ANALYZE) procrastinate_jobs")
        return made

    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server, plain_connection() as plain:
        works = {
            "the whole request": partial(by_request, server, token),
            "an edge function: select, update, update": partial(in_two_steps, plain),
            "`bulk_update`, 1,000 at a time": updated_in_bulk,
            "a loop of `save()`": saved_one_by_one,
            "procrastinate: a job for each, cancelled": as_jobs,
        }
        taken = in_turns(ROUNDS, subjects, works)
    row = table(f"{CONTACTS:,} contacts", "time", "beside ours")
    for name, each in taken.items():
        row(name, f"{statistics.median(each) * 1000:,.0f} ms", f"{ratio(each, taken['the whole request']):.1f}")


if __name__ == "__main__":
    main()
