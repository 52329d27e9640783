"""A whole platform: 1,000 batches of 200 agencies, dialled by two workers with simulated calls of 20 seconds."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from django.db import connection

from benchmarks.measuring import create_tenant
from calls.tests.support.factories import Tenant
from calls.tests.support.workers import worker

AGENCIES, BATCHES, CONTACTS = 200, 1_000, 100
WORKERS = 2
# Measured from the first minute on, when every batch has begun.
MINUTES = 5

INSERT_BATCHES = """
    INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number, total_contacts, queued)
    SELECT agencies.id, campaigns.id, agent_mappings.id, '+12125550199', %(contacts)s, %(contacts)s
    FROM generate_series(0, %(batches)s - 1) AS number
    JOIN agencies ON slug = 'agency-' || number %% %(agencies)s
    JOIN campaigns ON campaigns.agency_id = agencies.id JOIN agent_mappings ON agent_mappings.agency_id = agencies.id
    ORDER BY number
"""
INSERT_CONTACTS = """
    INSERT INTO campaign_contacts (id, agency_id, campaign_id, batch_id, phone_number)
    SELECT uuidv7(), agency_id, campaign_id, call_batches.id, '+1' || (2000000000 + row_number() OVER ())
    FROM call_batches, generate_series(1, %(contacts)s)
"""
# Of each batch: the seconds from its start to its first call, and its calls since then.
CALLS_BY_BATCH = """
    SELECT b.id, b.created_at, extract(epoch FROM min(c.last_attempt_at) - b.started_at), count(c.last_attempt_at)
    FROM call_batches b JOIN campaign_contacts c ON c.batch_id = b.id
    GROUP BY b.id ORDER BY b.created_at, b.id
"""


def fetch(sql: str, **parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def create_platform(batches: int, contacts: int) -> None:
    fetch("TRUNCATE call_batches, campaign_contacts, calls, call_batch_events, procrastinate_jobs CASCADE")
    numbers = {"batches": batches, "agencies": AGENCIES, "contacts": contacts}
    fetch(INSERT_BATCHES, **numbers)
    fetch(INSERT_CONTACTS, contacts=contacts)
    fetch("VACUUM (ANALYZE) call_batches, campaign_contacts")


def main() -> None:
    create_tenant()
    for number in range(AGENCIES):
        Tenant.create(f"agency-{number}")
    create_platform(BATCHES, CONTACTS)
    with ExitStack() as stack:
        for _ in range(WORKERS):
            stack.enter_context(worker(LOG_LEVEL="WARNING", RETRY_PAUSE="300"))
        began = time.monotonic()
        for k in range(int(__import__("os").environ.get("K", "9"))):
            time.sleep(10)
            (r,) = fetch(
                "SELECT count(*) FILTER (WHERE last_attempt_at IS NOT NULL), count(*) FILTER (WHERE status='in_progress'), count(*) FILTER (WHERE status in ('completed','failed')), count(DISTINCT batch_id) FILTER (WHERE last_attempt_at IS NOT NULL) FROM campaign_contacts"
            )
            (s,) = fetch("SELECT count(*) FILTER (WHERE status='processing') FROM call_batches")
            (j,) = fetch(
                "SELECT count(*) FILTER (WHERE status='todo'), count(*) FILTER (WHERE status='doing'), count(*) filter (where status='failed') FROM procrastinate_jobs"
            )
            print(
                round(time.monotonic() - began),
                "called, in progress, ended, batches begun:",
                r,
                "processing",
                s,
                "jobs",
                j,
                flush=True,
            )
        rows = fetch(CALLS_BY_BATCH)
        firsts = [float(r[2]) for r in rows if r[2] is not None]
        print("begun", len(firsts), "slowest first", max(firsts, default=None))
        print(
            "calls oldest, youngest, min, max",
            rows[0][3],
            rows[-1][3],
            min(r[3] for r in rows),
            max(r[3] for r in rows),
        )


if __name__ == "__main__":
    main()
