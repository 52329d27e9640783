"""
What a create costs, beside the bare COPY of the same rows.

The bare COPY is one transaction of psycopg's into the same table, with the ids made and the values at hand.
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from typing import Any

import psycopg
from uuid_utils.compat import uuid7

from benchmarks.measuring import in_turns, prepare, ratio, table
from calls.api.authentication import issue_token
from calls.models import CampaignContact
from calls.tests.support.factories import FUNCTIONS, Tenant, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

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


def rows(tenant: Tenant, contacts: list[dict[str, Any]], number: int) -> list[list[Any]]:
    """The rows of a new batch, ready to be sent; a request brings its own."""
    same = (tenant.agency.pk, tenant.campaign.pk, tenant.batch().pk, "pending")
    ready = [
        (uuid7(), *same, *({**contact, "custom_data": json.dumps(contact["custom_data"])}.values()))
        for contact in contacts
    ]
    return [ready] * number


def bare_copy(plain: psycopg.Connection[Any], columns: str, ready: list[Any]) -> None:
    with (
        plain.transaction(),
        plain.cursor() as cursor,
        cursor.copy(f"COPY {CampaignContact._meta.db_table} ({columns}) FROM STDIN") as copy,
    ):
        for row in ready:
            copy.write_row(row)


def whole_request(server: str, body: bytes, token: str, ready: list[Any]) -> None:
    status, _, answer = request(server, "POST", f"{FUNCTIONS}create", body, Authorization=f"Bearer {token}")
    if status != 201:
        raise SystemExit(f"{status}: {answer}")


def main() -> None:
    tenant = prepare()
    token = issue_token(tenant.owner)
    row = table("contacts", "bare COPY", "request", "ratio")
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server, plain_connection() as plain:
        for size in SIZES:
            contacts = [contact(index) for index in range(size)]
            body = json.dumps(tenant.wanted(contacts=contacts)).encode()
            columns = f"id, agency_id, campaign_id, batch_id, status, {', '.join(contacts[0])}"
            whole_request(server, body, token, [])
            works = {
                "bare": partial(bare_copy, plain, columns),
                "request": partial(whole_request, server, body, token),
            }
            taken = in_turns(PAIRS, partial(rows, tenant, contacts), works)
            row(
                f"{size:,}",
                *(f"{statistics.median(taken[name]) * 1000:.0f} ms" for name in works),
                f"{ratio(taken['request'], taken['bare']):.2f}",
            )


if __name__ == "__main__":
    main()
