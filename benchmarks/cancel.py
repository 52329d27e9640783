"""
What a cancel costs: the whole request beside the same two UPDATEs, and what it needs besides.

The UPDATEs are sent by psycopg to the same table, in one transaction.
"""

from __future__ import annotations

import json
import statistics
import threading
from functools import partial
from typing import Any

import psutil
import psycopg

from benchmarks.measuring import batches, in_turns, prepare, ratio, table
from calls.api.authentication import issue_token
from calls.models import CallBatch
from calls.tests.support.factories import URL, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

CONTACTS = """
    UPDATE {} SET status = 'skipped', outcome_notes = 'Batch cancelled', updated_at = now()
    WHERE batch_id = %s AND status IN ('pending', 'queued', 'scheduled')
"""
BATCH = """
    UPDATE call_batches SET status = 'cancelled', queued = 0, skipped = skipped + %s, completed_at = now(),
        error_message = 'Cancelled by user', updated_at = now()
    WHERE id = %s
"""

# Pairs for each number of contacts; even, as whoever is second finds the pages of the first still being written.
ROUNDS = {1_000: 20, 10_000: 20, 100_000: 10, 1_000_000: 4}
AT_MOST = {10_000: 1.30, 100_000: 1.10, 1_000_000: 1.05}


def bare(plain: psycopg.Connection[Any], batch: CallBatch) -> None:
    """The same two UPDATEs."""
    with plain.transaction():
        skipped = plain.execute(CONTACTS.format("campaign_contacts"), [batch.pk]).rowcount
        plain.execute(BATCH, [skipped, batch.pk])


def by_request(server: str, token: str, batch: CallBatch) -> None:
    """A cancel as a client sends it."""
    status, _, answer = request(
        server, "POST", URL, json.dumps({"batch_id": str(batch.pk)}), Authorization=f"Bearer {token}"
    )
    if status != 200:
        raise SystemExit(f"{status}: {answer}")


class Memory(threading.Thread):
    """How many bytes more than at the beginning the web server's processes have had at most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        children = psutil.Process().children(recursive=True)
        self.processes = [child for child in children if "gunicorn" in " ".join(child.cmdline())]
        self.over = threading.Event()
        self.idle = self.most = self.used()

    def used(self) -> int:
        return sum(process.memory_info().rss for process in self.processes)

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, self.used())

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        self.join()


def main() -> None:
    tenant = prepare()
    token = issue_token(tenant.owner)
    row = table("contacts", "two UPDATEs", "request", "ratio", "at most", "memory", "a second")
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server, plain_connection() as plain:
        by_request(server, token, *batches(tenant, 1, 1))
        for contacts, rounds in ROUNDS.items():
            with Memory() as memory:
                taken = in_turns(
                    rounds,
                    partial(batches, tenant, contacts),
                    {"bare": partial(bare, plain), "request": partial(by_request, server, token)},
                )
            two, whole = (statistics.median(taken[name]) for name in ("bare", "request"))
            row(
                f"{contacts:,}",
                f"{two * 1000:,.0f} ms",
                f"{whole * 1000:,.0f} ms",
                f"{ratio(taken['request'], taken['bare']):.2f}",
                f"{AT_MOST[contacts]:.2f}" if contacts in AT_MOST else "",
                f"+{(memory.most - memory.idle) / 2**20:.1f} MB",
                f"{contacts / whole:,.0f}",
            )


if __name__ == "__main__":
    main()
