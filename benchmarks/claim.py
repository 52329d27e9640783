"""What a claim costs: deep in a large batch, with many claimers of one, and while another batch is cancelled."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from uuid import UUID

from django.db import connection
from procrastinate import PsycopgConnector
from procrastinate.contrib.django import app

from benchmarks.cancel import by_request
from benchmarks.measuring import batches, fill, fresh, in_turns, prepare, ratio, settle, table
from calls.api.authentication import issue_token
from calls.dialler.claims import claim_next_contact
from calls.models import CallBatch
from calls.tests.support.factories import Tenant
from calls.tests.support.server import database_url, gunicorn

JOBS = """
    TRUNCATE procrastinate_jobs CASCADE;
    INSERT INTO procrastinate_jobs (task_name, queue_name, args, status)
    SELECT 'calls.tasks.dial', 'default', '{}', 'todo' FROM generate_series(1, 100000)
"""
CLAIMERS, SECONDS = 8, 5.0
LARGE = 1_000_000


def claim(batch: CallBatch) -> None:
    if claim_next_contact(batch) is None:
        raise SystemExit("nobody was claimed")


# In a large batch


def depth(tenant: Tenant) -> None:
    shares = {"none dialled": 0.0, "50 % dialled": 0.5, "99.9 % dialled": 0.999}
    made = fresh(tenant, len(shares))
    for batch, share in zip(made, shares.values(), strict=True):
        fill("campaign_contacts", [batch], LARGE, called=int(LARGE * share))
    settle("campaign_contacts")
    taken = in_turns(200, lambda number: made, dict.fromkeys(shares, claim))
    row = table("of 1,000,000", "a claim", "beside none")
    for name in shares:
        row(name, f"{statistics.median(taken[name]) * 1000:.1f} ms", f"{ratio(taken[name], taken['none dialled']):.2f}")


# Many claimers of one batch


def claims(batch_id: UUID, begin: float) -> int:
    """How many contacts this process claims in so many seconds."""
    batch, number = CallBatch(pk=batch_id), 0
    connection.ensure_connection()
    time.sleep(max(0.0, begin - time.time()))
    while time.time() < begin + SECONDS:
        claim(batch)
        number += 1
    return number


def jobs(begin: float) -> int:
    """How many jobs this process fetches, likewise."""

    async def work() -> int:
        number = 0
        async with app.with_connector(PsycopgConnector(conninfo=database_url(), min_size=1)).open_async() as opened:
            worker = await opened.job_manager.register_worker()
            time.sleep(max(0.0, begin - time.time()))
            while time.time() < begin + SECONDS:
                if await opened.job_manager.fetch_job(None, worker) is None:
                    raise SystemExit("no job was fetched")
                number += 1
        return number

    return asyncio.run(work())


def rate(tenant: Tenant) -> None:
    with ProcessPoolExecutor(CLAIMERS, mp_context=get_context("spawn")) as processes:

        def together(work: Callable[[float], int]) -> float:
            # Time for all of them to be there.
            begin = time.time() + 5
            return sum(processes.map(work, [begin] * CLAIMERS)) / SECONDS

        found: dict[str, list[float]] = {"contacts claimed": [], "jobs fetched by procrastinate": []}
        for _ in range(3):
            (batch,) = batches(tenant, 100_000, 1)
            CallBatch.objects.update(calls_per_minute=1_000_000, max_concurrent=1_000_000)
            found["contacts claimed"].append(together(partial(claims, batch.pk)))
            with connection.cursor() as cursor:
                cursor.execute(JOBS)
                cursor.execute("VACUUM (ANALYZE) procrastinate_jobs")
            found["jobs fetched by procrastinate"].append(together(jobs))
    row = table(f"100,000 waiting, {CLAIMERS} processes", "a second")
    for name, rates in found.items():
        row(name, f"{statistics.median(rates):,.0f}")


# While another batch is cancelled


def while_it_lasts(others: list[CallBatch], work: Callable[[], object]) -> list[float]:
    """How long each claim in one of the other batches takes while that work lasts, some thirty a second."""
    taken: list[float] = []
    working = threading.Thread(target=work)
    working.start()
    for batch in cycle(others):
        started = time.perf_counter()
        claim(batch)
        taken.append(time.perf_counter() - started)
        working.join(0.025)
        if not working.is_alive():
            return taken
    raise AssertionError


def p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def traffic(tenant: Tenant) -> None:
    token = issue_token(tenant.owner)
    quiet: list[float] = []
    busy: list[float] = []
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server:
        for _ in range(5):
            large, *others = fresh(tenant, 5)
            fill("campaign_contacts", [large], LARGE)
            fill("campaign_contacts", others, 10_000)
            settle("campaign_contacts")
            CallBatch.objects.update(calls_per_minute=1_000_000, max_concurrent=1_000_000)
            quiet += while_it_lasts(others, partial(time.sleep, 5))
            busy += while_it_lasts(others, partial(by_request, server, token, large))
    row = table("claims in other batches", "number", "median", "p99", "beside quiet")
    for name, taken in (("quiet", quiet), ("while 1,000,000 are cancelled", busy)):
        row(
            name,
            f"{len(taken):,}",
            f"{statistics.median(taken) * 1000:.1f} ms",
            f"{p99(taken) * 1000:.1f} ms",
            f"{p99(taken) / p99(quiet):.2f}",
        )


def main() -> None:
    tenant = prepare()
    for part in (depth, rate, traffic):
        part(tenant)
        print()


if __name__ == "__main__":
    main()
