"""
The time and memory of a cancel: the whole request compared with the same two UPDATEs.

psycopg sends the UPDATEs to the same table, in one transaction.
"""

from __future__ import annotations

import json
import statistics
import threading
from functools import partial
from typing import Any

import psutil
import psycopg

from benchmarks.measuring import create_tenant, filled_batches, median_ratio, start_table, time_in_turns
from calls.api.authentication import issue_token
from calls.models import CallBatch
from calls.tests.support.factories import URL, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

UPDATE_CONTACTS = """
    UPDATE {} SET status = 'skipped', outcome_notes = 'Batch cancelled', updated_at = now()
    WHERE batch_id = %s AND status IN ('pending', 'queued', 'scheduled')
"""
UPDATE_BATCH = """
    UPDATE call_batches SET status = 'cancelled', queued = 0, skipped = skipped + %s, completed_at = now(),
        error_message = 'Cancelled by user', updated_at = now()
    WHERE id = %s
"""

# Pairs for each number of contacts. Even numbers, so that each side comes first equally often: the second cancel of a
# pair runs while the pages of the first are still being written.
ROUNDS = {1_000: 20, 10_000: 20, 100_000: 10, 1_000_000: 4}
REQUIRED_RATIO = {10_000: 1.30, 100_000: 1.10, 1_000_000: 1.05}


def cancel_by_updates(plain: psycopg.Connection[Any], batch: CallBatch) -> None:
    """Cancel by the two UPDATEs alone."""
    with plain.transaction():
        skipped = plain.execute(UPDATE_CONTACTS.format("campaign_contacts"), [batch.pk]).rowcount
        plain.execute(UPDATE_BATCH, [skipped, batch.pk])


def cancel_by_request(server: str, token: str, batch: CallBatch) -> None:
    """Cancel as a client does."""
    status, _, answer = request(
        server, "POST", URL, json.dumps({"batch_id": str(batch.pk)}), Authorization=f"Bearer {token}"
    )
    if status != 200:
        raise SystemExit(f"{status}: {answer}")


class PeakMemory(threading.Thread):
    """Watches the memory of the web server's processes. ``peak`` and ``idle`` are in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        children = psutil.Process().children(recursive=True)
        self.processes = [child for child in children if "gunicorn" in " ".join(child.cmdline())]
        self.stopped = threading.Event()
        self.idle = self.peak = self.used()

    def used(self) -> int:
        return sum(process.memory_info().rss for process in self.processes)

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            self.peak = max(self.peak, self.used())

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self.join()


def main() -> None:
    tenant = create_tenant()
    token = issue_token(tenant.owner)
    print_row = start_table("contacts", "two UPDATEs", "request", "ratio", "required", "memory", "contacts/s")
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server, plain_connection() as plain:
        # The first request also starts the server's connection pool.
        cancel_by_request(server, token, *filled_batches(tenant, 1, 1))
        for contacts, rounds in ROUNDS.items():
            with PeakMemory() as memory:
                seconds = time_in_turns(
                    rounds,
                    partial(filled_batches, tenant, contacts),
                    {
                        "updates": partial(cancel_by_updates, plain),
                        "request": partial(cancel_by_request, server, token),
                    },
                )
            updates, whole = (statistics.median(seconds[name]) for name in ("updates", "request"))
            print_row(
                f"{contacts:,}",
                f"{updates * 1000:,.0f} ms",
                f"{whole * 1000:,.0f} ms",
                f"{median_ratio(seconds['request'], seconds['updates']):.2f}",
                f"≤ {REQUIRED_RATIO[contacts]:.2f}" if contacts in REQUIRED_RATIO else "",
                f"+{(memory.peak - memory.idle) / 2**20:.1f} MB",
                f"{contacts / whole:,.0f}",
            )


if __name__ == "__main__":
    main()
