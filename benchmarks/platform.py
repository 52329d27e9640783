"""
A whole platform: how soon each batch begins, how many calls start in a minute, and how fairly they are shared.

Real workers dial with simulated calls of 20 seconds and the default limits. The calls' ends come from the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import connection

from benchmarks.measuring import create_tenant, start_table
from calls.models import CallBatch
from calls.tests.support.factories import Tenant
from calls.tests.support.workers import worker

AGENCIES = 200
WORKERS = 2
# The time in which every batch must have begun, and the time for which calls are then counted, in seconds.
BEGIN, COUNT = 60, 300

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
# The calls of each batch, oldest batch first, and the seconds from its start to its first call.
CALLS_BY_BATCH = """
    SELECT batch.agency_id, count(contact.last_attempt_at), extract(epoch FROM min(last_attempt_at) - started_at)
    FROM call_batches AS batch JOIN campaign_contacts AS contact ON batch_id = batch.id
    GROUP BY batch.id ORDER BY batch.id
"""


def fetch(sql: str, **parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def create_batches(batches: int, contacts: int, agencies: int = AGENCIES) -> None:
    """Replace all batches by due ones, which the agencies have in turn."""
    fetch("TRUNCATE call_batches, campaign_contacts, calls, call_batch_events, procrastinate_jobs CASCADE")
    fetch(INSERT_BATCHES, batches=batches, agencies=agencies, contacts=contacts)
    fetch(INSERT_CONTACTS, contacts=contacts)
    fetch("VACUUM (ANALYZE) call_batches, campaign_contacts")


@contextmanager
def workers() -> Iterator[float]:
    """Run the workers. Yield the time at which they were started."""
    with ExitStack() as stack:
        began = time.monotonic()
        for _ in range(WORKERS):
            stack.enter_context(worker(LOG_LEVEL="WARNING", RETRY_PAUSE="300"))
        yield began


def wait_until_all_have_begun(began: float) -> float:
    """Return how many seconds after the workers' start the last batch had its first call."""
    while not all(calls for _, calls, _ in fetch(CALLS_BY_BATCH)):
        time.sleep(0.5)
        if time.monotonic() > began + 10 * BEGIN:
            raise SystemExit("not every batch has begun")
    return time.monotonic() - began


def count_calls(seconds: float) -> list[int]:
    """Return how many calls of each batch were started in this time, oldest batch first."""
    before = fetch(CALLS_BY_BATCH)
    time.sleep(seconds)
    return [now[1] - earlier[1] for now, earlier in zip(fetch(CALLS_BY_BATCH), before, strict=True)]


def measure_platform() -> None:
    print_row = start_table("1,000 batches of 200 agencies, 100,000 contacts", "measured", "required")
    create_batches(1_000, 100)
    with workers() as began:
        print_row("the last batch begins after", f"{wait_until_all_have_begun(began):.0f} s", f"≤ {BEGIN} s")
        slowest = max(first for _, _, first in fetch(CALLS_BY_BATCH))
        print_row("the slowest first call after a start", f"{slowest:.1f} s", f"≤ {BEGIN} s")
        time.sleep(max(0.0, began + BEGIN - time.monotonic()))
        calls = count_calls(COUNT)
    print_row("calls a minute", f"{sum(calls) * 60 / COUNT:,.0f}", "≥ 3,000")
    print_row("calls of the oldest batch, ratio to the youngest", f"{calls[0] / calls[-1]:.2f}", "0.8 to 1.2")
    print_row("calls of a batch, fewest and most", f"{min(calls)} to {max(calls)}", "")


def measure_small_batches() -> None:
    print_row = start_table("200 batches of 5 contacts", "measured", "required")
    create_batches(200, 5)
    with workers() as began:
        print_row("the last batch begins after", f"{wait_until_all_have_begun(began):.0f} s", f"≤ {BEGIN} s")


def measure_neighbour() -> None:
    """
    One batch of an agency, alone and beside 100 batches of another agency.

    ``calls_per_minute`` is what limits it: with the default ``max_concurrent`` it would wait for the sweep.
    """
    print_row = start_table("one batch", "first call", "calls in 90 seconds", "required")
    for neighbours in (0, 100):
        create_batches(1 + neighbours, 1_000, agencies=1)
        quiet = CallBatch.objects.order_by("pk").last()
        tenant = Tenant.create(f"quiet-{neighbours}")
        fetch(
            "UPDATE call_batches SET agency_id = %(agency)s, campaign_id = %(campaign)s, agent_mapping_id = %(agent)s,"
            " max_concurrent = 100 WHERE id = %(batch)s",
            agency=tenant.agency.pk,
            campaign=tenant.campaign.pk,
            agent=tenant.agent.pk,
            batch=quiet.pk,
        )
        fetch("UPDATE campaign_contacts SET agency_id = %(a)s WHERE batch_id = %(b)s", a=tenant.agency.pk, b=quiet.pk)
        with workers() as began:
            while not quiet.contacts.exclude(last_attempt_at=None).exists():
                time.sleep(0.1)
            first = time.monotonic() - began
            time.sleep(90)
            calls = quiet.contacts.exclude(last_attempt_at=None).count()
        print_row(f"beside {neighbours} of another agency", f"{first:.1f} s", str(calls), f"≤ {BEGIN} s, as many")


def main() -> None:
    create_tenant()
    for number in range(AGENCIES):
        Tenant.create(f"agency-{number}")
    for measure in (measure_small_batches, measure_neighbour, measure_platform):
        measure()
        print()


if __name__ == "__main__":
    main()
