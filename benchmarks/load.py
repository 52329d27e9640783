"""
How long ``/healthz`` and another agency's cancel take while one user sends as many slow requests as it can.

Eight clients of Harbour's owner create batches of 12 MB, or sixteen clients of a client_viewer of Harbour read the end
of a batch of a million contacts. Each client sends its next request when it has the answer. Bluebell's owner cancels.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.measuring import add_contacts, create_tenant, new_batches, start_table, vacuum
from calls.api.authentication import issue_token
from calls.models import AgencyUser, CallBatch
from calls.roles import Role
from calls.tests.support.factories import FUNCTIONS, URL, Tenant
from calls.tests.support.server import database_url, gunicorn, request

SECONDS = 20
PAUSE = 0.2
CONTACTS = 1_000_000
REQUIRED = 1.0


def large_create(tenant: Tenant) -> bytes:
    """Return the body of a valid create with 10,000 contacts and 12 MB."""
    contacts = [
        {"phone_number": f"+1212{index:07d}", "custom_data": {"policy": f"A-{index}", "notes": "renewal due " * 95}}
        for index in range(10_000)
    ]
    return json.dumps(tenant.create_body(contacts=contacts)).encode()


def send(server: str, method: str, path: str, user: AgencyUser, body: bytes | None = None) -> int:
    status, _, _ = request(server, method, path, body, Authorization=f"Bearer {issue_token(user)}")
    return status


def cancel(server: str, batches: list[CallBatch], user: AgencyUser) -> int:
    """Cancel the next of the batches."""
    return send(server, "POST", URL, user, json.dumps({"batch_id": str(batches.pop().pk)}).encode())


@contextmanager
def load(clients: int, send_one: Callable[[], int] | None) -> Iterator[Counter[int]]:
    """Send requests from ``clients`` threads, without a pause. Yields how many answers had each status."""
    answers: Counter[int] = Counter()
    stopped = threading.Event()

    def keep_sending() -> None:
        while send_one and not stopped.is_set():
            answers[send_one()] += 1

    threads = [threading.Thread(target=keep_sending) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def probe(functions: dict[str, Callable[[], int]]) -> dict[str, list[float]]:
    """Call the functions in turn for ``SECONDS``. Return how many seconds each call took."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for name, function in functions.items():
            started = time.perf_counter()
            status = function()
            seconds[name].append(time.perf_counter() - started)
            if status != 200:
                raise SystemExit(f"{name}: {status}")
        time.sleep(PAUSE)
    return seconds


def main() -> None:
    harbour, bluebell = create_tenant(), Tenant.create("bluebell")
    (million,) = new_batches(harbour, 1)
    small = [bluebell.batch() for _ in range(5_000)]
    add_contacts("campaign_contacts", small, 10)
    add_contacts("campaign_contacts", [million], CONTACTS)
    body = large_create(harbour)
    deep = f"{FUNCTIONS}get?batch_id={million.pk}&contact_limit=200&contact_offset={CONTACTS - 1_000}"
    viewer = harbour.users[Role.CLIENT_VIEWER]
    print_row = start_table("load", "probe", "median", "longest", "required", "answers to the load")
    with gunicorn(database_url(), LOG_LEVEL="ERROR") as server:
        probes = {
            "/healthz": lambda: request(server, "GET", "/healthz")[0],
            "cancel": partial(cancel, server, small, bluebell.owner),
        }
        # The first requests of each process import the application.
        for first in probes.values():
            with load(8, first):
                time.sleep(2)
        for name, clients, send_one in (
            ("none", 0, None),
            ("8 creates of 12 MB", 8, partial(send, server, "POST", f"{FUNCTIONS}create", harbour.owner, body)),
            ("16 deep gets", 16, partial(send, server, "GET", deep, viewer)),
        ):
            vacuum("campaign_contacts")
            with load(clients, send_one) as answers:
                seconds = probe(probes)
            sent = ", ".join(f"{count} with {status}" for status, count in sorted(answers.items()))
            for number, (probed, times) in enumerate(seconds.items()):
                print_row(
                    name,
                    probed,
                    f"{statistics.median(times) * 1000:,.0f} ms",
                    f"{max(times) * 1000:,.0f} ms",
                    f"≤ {REQUIRED * 1000:,.0f} ms" if clients else "",
                    sent if not number else "",
                )


if __name__ == "__main__":
    main()
