"""
The memory of a web server's process after many large requests, compared with its memory after the first five.

Each row has its own server with one process. The requests are as large as the endpoint accepts, and are refused at the
end of the work: a create has a million contacts, or one that is invalid; the batch of a cancel does not exist; an event
has no type.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psutil

from benchmarks.measuring import create_tenant, start_table
from calls.api.authentication import issue_token
from calls.tests.support.factories import FUNCTIONS, URL, Tenant
from calls.tests.support.server import database_url, gunicorn, request
from calls.tests.support.webhooks import WEBHOOK_SECRET

MB = 1024 * 1024
FIRST = 5
REQUIRED_MB = 60


def fill(body: dict[str, Any], size: int) -> bytes:
    """Return the body as JSON of ``size`` bytes. Its value "fill" becomes a list of empty objects."""
    text = json.dumps(body)
    objects = ",".join(["{}"] * ((size - len(text)) // 3))
    return text.replace('"fill"', f"[{objects}]").encode()


def invalid_create(tenant: Tenant, size: int) -> bytes:
    """Return a create of 10,000 contacts, or 1,000 in 1 MB, of which the last is invalid."""
    number = min(10_000, size // 1024)
    notes = list(range((size // number - 120) // 6))
    contacts = [{"phone_number": f"+1212{index:07d}", "custom_data": {"notes": notes}} for index in range(number)]
    contacts[-1]["phone_number"] = "invalid"
    return json.dumps(tenant.create_body(contacts=contacts)).encode()


def server_process() -> psutil.Process:
    """Return the process that answers the requests."""
    (worker,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if "gunicorn" in " ".join(child.cmdline()) and not child.children()
    )
    return worker


def measure(path: str, body: bytes, token: str, number: int) -> tuple[float, float]:
    """Send the request ``number`` times. Return the memory after the first five and at the end, in MB."""
    with gunicorn(database_url(), LOG_LEVEL="CRITICAL", WEB_CONCURRENCY="1") as server:

        def send(count: int) -> float:
            statuses = {request(server, "POST", path, body, Authorization=f"Bearer {token}")[0] for _ in range(count)}
            if not statuses <= {200, 400, 404}:
                raise SystemExit(f"{path}: {statuses}")
            return server_process().memory_info().rss / MB

        return send(FIRST), send(number - FIRST)


def main() -> None:
    tenant = create_tenant()
    tenant.agency.webhook_secret = WEBHOOK_SECRET
    tenant.agency.save()
    token = issue_token(tenant.owner)
    create, webhook = f"{FUNCTIONS}create", f"/functions/v1/webhook-ingest/{tenant.agency.pk}/{WEBHOOK_SECRET}"
    million = tenant.create_body(contacts="fill")
    call = {"callId": str(uuid4()), "padding": "fill"}
    print_row = start_table("request", "number", f"after {FIRST}", "after all", "growth", "required")
    for name, path, body, number in (
        ("create, too many contacts, 16 MB", create, fill(million, 16 * MB), 100),
        ("create, invalid contact, 16 MB", create, invalid_create(tenant, 16 * MB), 100),
        ("create, too many contacts, 1 MB", create, fill(million, MB), 300),
        ("create, invalid contact, 1 MB", create, invalid_create(tenant, MB), 300),
        ("cancel, 64 KB", URL, fill({"batch_id": str(uuid4()), "padding": "fill"}, 64 * 1024), 300),
        ("event, stored, 1 MB", webhook, fill({"event": "call.other", "call": call}, MB), 300),
        ("event, refused, 1 MB", webhook, fill({"call": call}, MB), 300),
    ):
        first, last = measure(path, body, token, number)
        print_row(
            name,
            str(number),
            f"{first:.0f} MB",
            f"{last:.0f} MB",
            f"{last - first:+.0f} MB",
            f"≤ {REQUIRED_MB} MB",
        )


if __name__ == "__main__":
    main()
