"""
What a create costs, beside the bare COPY of the same rows: ``make bench``.

Interleaved pairs against one server, so that whatever else the machine does weighs on both. The bare COPY is one
transaction of psycopg's into the same table, with the ids made and the values at hand.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import django
import psycopg

django.setup()

from django.core.management import call_command  # noqa: E402
from uuid_utils.compat import uuid7  # noqa: E402

from calls.authentication import issue_token  # noqa: E402
from calls.models import CallBatch, CampaignContact  # noqa: E402
from calls.tests.cast import FUNCTIONS, Tenant, address  # noqa: E402
from calls.tests.server import database_url, gunicorn, request  # noqa: E402

PAIRS = 20
SIZES = [100, 1_000, 10_000]


def contact(index: int) -> dict[str, Any]:
    """One with every field filled in, as a client sends it."""
    return {
        "phone_number": f"+1212{index:07d}",
        "first_name": "Amara",
        "last_name": f"Lindqvist-{index}",
        "email": f"amara.{index}@example.com",
        "company": "Harbour & Pine",
        "title": "Head of Operations",
        "timezone": "America/New_York",
        "custom_data": {"policy": f"A-{index}", "plan": "gold"},
        "max_attempts": 3,
    }


def bare_copy(batch: CallBatch, contacts: list[dict[str, Any]]) -> float:
    same = (batch.agency_id, batch.campaign_id, batch.pk, "pending")
    rows = [
        (uuid7(), *same, *({**contact, "custom_data": json.dumps(contact["custom_data"])}.values()))
        for contact in contacts
    ]
    columns = f"id, agency_id, campaign_id, batch_id, status, {', '.join(contacts[0])}"
    with psycopg.connect(**address()) as connection:
        started = time.perf_counter()
        with (
            connection.transaction(),
            connection.cursor() as cursor,
            cursor.copy(f"COPY {CampaignContact._meta.db_table} ({columns}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
        return time.perf_counter() - started


def whole_request(server: str, body: bytes, token: str) -> float:
    started = time.perf_counter()
    status, _, answer = request(server, "POST", f"{FUNCTIONS}create", body, Authorization=f"Bearer {token}")
    if status != 201:
        raise SystemExit(f"{status}: {answer}")
    return time.perf_counter() - started


def main() -> None:
    call_command("migrate", verbosity=0)
    tenant = Tenant.create("harbour")
    token = issue_token(tenant.owner)
    print(f"| {'contacts':>8} | {'bare COPY':>9} | {'request':>9} | {'ratio':>5} |")
    print(f"|{'---:|':>11}{'---:|':>12}{'---:|':>12}{'---:|':>8}")
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server:
        for size in SIZES:
            contacts = [contact(index) for index in range(size)]
            body = json.dumps(tenant.wanted(contacts=contacts)).encode()
            whole_request(server, body, token)
            pairs = [(bare_copy(tenant.batch(), contacts), whole_request(server, body, token)) for _ in range(PAIRS)]
            copies, requests = zip(*pairs, strict=True)
            ratio = statistics.median(one / other for other, one in pairs)
            bare, whole = statistics.median(copies) * 1000, statistics.median(requests) * 1000
            print(f"| {size:>8,} | {bare:>6.0f} ms | {whole:>6.0f} ms | {ratio:>5.2f} |")


if __name__ == "__main__":
    main()
