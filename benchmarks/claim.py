"""The time of a claim: deep in a large batch, with many claimers of one batch, and while another batch is cancelled."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from importlib import import_module
from itertools import cycle
from multiprocessing import get_context
from uuid import UUID

from django.contrib.postgres.functions import TransactionNow
from django.db import connection
from procrastinate import PsycopgConnector
from procrastinate.contrib.django import app

from benchmarks.cancel import cancel_by_request
from benchmarks.measuring import (
    add_contacts,
    create_tenant,
    filled_batches,
    median_ratio,
    new_batches,
    start_table,
    time_in_turns,
    vacuum,
)
from calls.api.authentication import issue_token
from calls.database.triggers import RUN_AS_OWNER
from calls.dialler import claims
from calls.dialler.claims import claim_next_contact
from calls.models import CallBatch, CampaignContact
from calls.statuses import ContactStatus, Outcome
from calls.tests.support.factories import Tenant
from calls.tests.support.server import database_url, gunicorn

INSERT_JOBS = """
    TRUNCATE procrastinate_jobs CASCADE;
    INSERT INTO procrastinate_jobs (task_name, queue_name, args, status)
    SELECT 'calls.tasks.dial', 'default', '{}', 'todo' FROM generate_series(1, 100000)
"""
CLAIMERS, SECONDS = 8, 5.0
BLOCKS, CLAIMS_OF_BLOCK = 20, 50
LARGE = 1_000_000


def claim(batch: CallBatch) -> None:
    if claim_next_contact(batch) is None:
        raise SystemExit("no contact was claimed")


# In a large batch


def measure_depth(tenant: Tenant) -> None:
    shares = {"none dialled": 0.0, "50 % dialled": 0.5, "99.9 % dialled": 0.999}
    batches = new_batches(tenant, len(shares))
    for batch, share in zip(batches, shares.values(), strict=True):
        add_contacts("campaign_contacts", [batch], LARGE, called=int(LARGE * share))
    vacuum("campaign_contacts")
    seconds = time_in_turns(200, lambda number: batches, dict.fromkeys(shares, claim))
    print_row = start_table(f"of {LARGE:,}", "claim", "ratio")
    for name in shares:
        milliseconds = statistics.median(seconds[name]) * 1000
        print_row(name, f"{milliseconds:.1f} ms", f"{median_ratio(seconds[name], seconds['none dialled']):.2f}")


# Many claimers of one batch


def count_claims(batch_id: UUID, begin: float) -> int:
    """Return how many contacts this process claims in ``SECONDS``, from the time ``begin`` on."""
    batch, number = CallBatch(pk=batch_id), 0
    connection.ensure_connection()
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + SECONDS:
        claim(batch)
        number += 1
    return number


def end_calls(batch: CallBatch) -> None:
    """
    End the calls in progress, and move them out of the last minute.

    A claim counts the calls in progress and those of the last minute. Users can allow a hundred of them at most, and
    the claimers would soon have thousands.
    """
    CampaignContact.objects.with_call_in_progress(batch.pk).update(
        status=ContactStatus.COMPLETED,
        outcome=Outcome.ANSWERED,
        completed_at=TransactionNow(),
        last_attempt_at=TransactionNow() - timedelta(minutes=2),
    )


def count_jobs(begin: float) -> int:
    """Return how many jobs this process fetches in ``SECONDS``, from the time ``begin`` on."""

    async def fetch_jobs() -> int:
        number = 0
        async with app.with_connector(PsycopgConnector(conninfo=database_url(), min_size=1)).open_async() as opened:
            worker = await opened.job_manager.register_worker()
            time.sleep(max(0.0, begin - time.time()))
            while time.time() < begin + SECONDS:
                if await opened.job_manager.fetch_job(None, worker) is None:
                    raise SystemExit("no job was fetched")
                number += 1
        return number

    return asyncio.run(fetch_jobs())


def measure_rate(tenant: Tenant) -> None:
    with ProcessPoolExecutor(CLAIMERS, mp_context=get_context("spawn")) as processes:

        def total_rate(work: Callable[[float], int], batch: CallBatch) -> float:
            # All processes need time to start.
            begin = time.time() + 5
            working = [processes.submit(work, begin) for _ in range(CLAIMERS)]
            while wait(working, timeout=0.1).not_done:
                end_calls(batch)
            return sum(each.result() for each in working) / SECONDS

        rates: dict[str, list[float]] = {"contacts claimed": [], "jobs fetched by procrastinate": []}
        for _ in range(3):
            (batch,) = filled_batches(tenant, 100_000, 1)
            CallBatch.objects.update(calls_per_minute=1_000_000, max_concurrent=1_000_000)
            rates["contacts claimed"].append(total_rate(partial(count_claims, batch.pk), batch))
            with connection.cursor() as cursor:
                cursor.execute(INSERT_JOBS)
                cursor.execute("VACUUM (ANALYZE) procrastinate_jobs")
            rates["jobs fetched by procrastinate"].append(total_rate(count_jobs, batch))
    print_row = start_table(f"100,000 queued, {CLAIMERS} processes", "per second")
    for name, values in rates.items():
        print_row(name, f"{statistics.median(values):,.0f}")


# With and without the check for a hold


@contextmanager
def without_holds() -> Iterator[None]:
    """Remove the check for holds from claims and guards, as before holds existed."""
    changes = {
        "_CHOOSE": claims._CHOOSE.replace(
            "pg_advisory_xact_lock_shared(hashtextextended(%(claim_lock)s, 0))", "NULL"
        ).replace("held_at IS NOT NULL OR ", ""),
        "_CLAIM": claims._CLAIM.replace("AND held_at IS NOT NULL", "AND false"),
    }
    originals = {name: getattr(claims, name) for name in changes}
    for name, value in changes.items():
        if value == originals[name]:
            raise SystemExit(f"{name} has changed, so holds cannot be left out")
        setattr(claims, name, value)
    install_guards("0006_refuse_second_claims")
    try:
        yield
    finally:
        for name, value in originals.items():
            setattr(claims, name, value)
        install_guards("0017_refuse_claims_during_holds")


def install_guards(migration: str) -> None:
    with connection.cursor() as cursor:
        for guard in import_module(f"calls.migrations.{migration}").NEW_GUARDS:
            cursor.execute(guard.trigger.install_sql)
        cursor.execute(RUN_AS_OWNER)


def measure_hold(tenant: Tenant) -> None:
    """Time blocks of claims, alternately with and without the check for a hold."""
    (batch,) = filled_batches(tenant, 100_000, 1)
    CallBatch.objects.update(calls_per_minute=1_000_000, max_concurrent=1_000_000)
    seconds: dict[str, list[float]] = {"without holds": [], "with holds": []}
    for number in range(2 * BLOCKS):
        name = list(seconds)[number % 2]
        with without_holds() if name == "without holds" else nullcontext():
            end_calls(batch)
            for position in range(20 + CLAIMS_OF_BLOCK):
                started = time.perf_counter()
                claim(batch)
                # The first claims of a block fill PostgreSQL's caches again.
                if position >= 20:
                    seconds[name].append(time.perf_counter() - started)
    print_row = start_table("claims", "number", "median", "ratio", "required")
    base = statistics.median(seconds["without holds"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print_row(name, f"{len(values):,}", f"{median * 1000:.2f} ms", f"{median / base:.3f}", "≤ 1.05")


# While another batch is cancelled


def time_claims_during(work: Callable[[], object], batches: list[CallBatch]) -> list[float]:
    """Claim in ``batches``, about thirty times a second, while ``work`` runs. Return the seconds of each claim."""
    seconds: list[float] = []
    working = threading.Thread(target=work)
    working.start()
    for batch in cycle(batches):
        started = time.perf_counter()
        claim(batch)
        seconds.append(time.perf_counter() - started)
        working.join(0.025)
        if not working.is_alive():
            return seconds
    raise AssertionError


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def measure_during_cancel(tenant: Tenant) -> None:
    token = issue_token(tenant.owner)
    idle: list[float] = []
    during_cancel: list[float] = []
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server:
        for _ in range(5):
            large, *others = new_batches(tenant, 5)
            add_contacts("campaign_contacts", [large], LARGE)
            add_contacts("campaign_contacts", others, 10_000)
            vacuum("campaign_contacts")
            CallBatch.objects.update(calls_per_minute=1_000_000, max_concurrent=1_000_000)
            idle += time_claims_during(partial(time.sleep, 5), others)
            during_cancel += time_claims_during(partial(cancel_by_request, server, token, large), others)
    print_row = start_table("claims in other batches", "number", "median", "p99", "p99 ratio")
    for name, seconds in (("no cancel", idle), (f"during a cancel of {LARGE:,}", during_cancel)):
        print_row(
            name,
            f"{len(seconds):,}",
            f"{statistics.median(seconds) * 1000:.1f} ms",
            f"{p99(seconds) * 1000:.1f} ms",
            f"{p99(seconds) / p99(idle):.2f}",
        )


def main() -> None:
    tenant = create_tenant()
    for measure in (measure_depth, measure_hold, measure_rate, measure_during_cancel):
        measure(tenant)
        print()


if __name__ == "__main__":
    main()
