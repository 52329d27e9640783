"""
The time of a create, compared with the bare COPY of the same rows.

The bare COPY is one psycopg transaction into the same table; ids and values are prepared beforehand.
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from typing import Any

import psycopg
from uuid_utils.compat import uuid7

from benchmarks.measuring import create_tenant, median_ratio, start_table, time_in_turns
from calls.api.authentication import issue_token
from calls.models import CampaignContact
from calls.tests.support.factories import FUNCTIONS, Tenant, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

PAIRS = 20
SIZES = [100, 1_000, 10_000]


def contact(index: int) -> dict[str, Any]:
    """Return a contact as a client sends it, with every field filled in."""
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


def prepare_rows(tenant: Tenant, contacts: list[dict[str, Any]], number: int) -> list[list[Any]]:
    """Return the rows of a new batch ``number`` times, once for each measured function. The request ignores them."""
    shared = (tenant.agency.pk, tenant.campaign.pk, tenant.batch().pk, "pending")
    rows = [
        (uuid7(), *shared, *({**contact, "custom_data": json.dumps(contact["custom_data"])}.values()))
        for contact in contacts
    ]
    return [rows] * number


def copy_rows(plain: psycopg.Connection[Any], columns: str, rows: list[Any]) -> None:
    with (
        plain.transaction(),
        plain.cursor() as cursor,
        cursor.copy(f"COPY {CampaignContact._meta.db_table} ({columns}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


def create_by_request(server: str, body: bytes, token: str, rows: list[Any]) -> None:
    status, _, answer = request(server, "POST", f"{FUNCTIONS}create", body, Authorization=f"Bearer {token}")
    if status != 201:
        raise SystemExit(f"{status}: {answer}")


def main() -> None:
    tenant = create_tenant()
    token = issue_token(tenant.owner)
    print_row = start_table("contacts", "bare COPY", "request", "ratio")
    with gunicorn(database_url(), LOG_LEVEL="WARNING") as server, plain_connection() as plain:
        for size in SIZES:
            contacts = [contact(index) for index in range(size)]
            body = json.dumps(tenant.create_body(contacts=contacts)).encode()
            columns = f"id, agency_id, campaign_id, batch_id, status, {', '.join(contacts[0])}"
            # The first request also starts the server's connection pool.
            create_by_request(server, body, token, [])
            functions = {
                "copy": partial(copy_rows, plain, columns),
                "request": partial(create_by_request, server, body, token),
            }
            seconds = time_in_turns(PAIRS, partial(prepare_rows, tenant, contacts), functions)
            print_row(
                f"{size:,}",
                *(f"{statistics.median(seconds[name]) * 1000:.0f} ms" for name in functions),
                f"{median_ratio(seconds['request'], seconds['copy']):.2f}",
            )


if __name__ == "__main__":
    main()
