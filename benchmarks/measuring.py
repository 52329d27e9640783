"""What the measurements share: a database that is filled anew each time, pairs that take turns, and tables to print."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import django
from django.db import connection

django.setup()

from django.core.management import call_command  # noqa: E402

from calls.models import CallBatch  # noqa: E402
from calls.tests.support.factories import Tenant  # noqa: E402

T = TypeVar("T")

# A list of people with every field filled in, made by the server itself; the first of them have been called.
PEOPLE = """
    INSERT INTO {table} (
        id, agency_id, campaign_id, batch_id, status, outcome, attempts, last_attempt_at, completed_at,
        phone_number, first_name, last_name, email, company, title, timezone, custom_data
    )
    SELECT
        uuidv7(), agency_id, campaign_id, call_batches.id, CASE WHEN called THEN 'completed' ELSE 'queued' END,
        CASE WHEN called THEN 'answered' END, called::integer, CASE WHEN called THEN now() - interval '1 hour' END,
        CASE WHEN called THEN now() - interval '1 hour' END, '+1212' || lpad(number::text, 7, '0'), 'Amara',
        'Lindqvist-' || number, 'amara.' || number || '@example.com', 'Harbour & Pine', 'Head of Operations',
        'America/New_York', jsonb_build_object('policy', 'A-' || number, 'plan', 'gold')
    FROM call_batches, generate_series(1, {contacts}) AS number, LATERAL (SELECT number <= {called} AS called) AS life
    WHERE call_batches.id = ANY (%s) ORDER BY call_batches.id, number
"""


def prepare() -> Tenant:
    """The tables of the database that this process is given, and an agency in it."""
    call_command("migrate", verbosity=0)
    return Tenant.create("harbour")


def fresh(tenant: Tenant, number: int) -> list[CallBatch]:
    """So many batches that are being dialled, with no contacts yet; all that was there is gone."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE call_batches, campaign_contacts, call_batch_events CASCADE")
    return [tenant.batch() for _ in range(number)]


def fill(name: str, made: Sequence[CallBatch], contacts: int, *, called: int = 0) -> None:
    """Give each batch so many contacts, all but those called waiting, in the table of that name."""
    with connection.cursor() as cursor:
        cursor.execute(PEOPLE.format(table=name, contacts=contacts, called=called), [[batch.pk for batch in made]])
    CallBatch.objects.filter(pk__in=[batch.pk for batch in made]).update(total_contacts=contacts, queued=contacts)


def settle(*names: str) -> None:
    """As some time later: nothing is left to be written or cleaned up."""
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM (ANALYZE) {', '.join(('call_batches', *names))}")
        cursor.execute("CHECKPOINT")


def batches(tenant: Tenant, contacts: int, number: int) -> list[CallBatch]:
    """So many batches that are being dialled, of so many contacts each, all of them waiting."""
    made = fresh(tenant, number)
    fill("campaign_contacts", made, contacts)
    settle("campaign_contacts")
    return made


def in_turns(
    rounds: int, subjects: Callable[[int], Sequence[T]], works: dict[str, Callable[[T], Any]]
) -> dict[str, list[float]]:
    """
    How many seconds each work took in each round, on a subject of its own. Each round begins with another one.

    Interleaved, so that whatever else the machine does weighs on all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        pairs = list(zip(works.items(), subjects(len(works)), strict=True))
        first = number % len(pairs)
        for (name, work), subject in pairs[first:] + pairs[:first]:
            started = time.perf_counter()
            work(subject)
            taken[name].append(time.perf_counter() - started)
    return taken


def ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of what one took beside the other, pair by pair."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def table(*header: str) -> Callable[..., None]:
    """Print the head of a table, as Markdown, and give a function that prints a row of it."""
    widths = [max(len(name), 9) for name in header]

    def row(*cells: str) -> None:
        print(
            "| " + " | ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + " |", flush=True
        )

    row(*header)
    row(*("-" * (width - 1) + ":" for width in widths))
    return row
