"""The time of a list's first page and of a get in a large database, compared with a small one on the same server."""

from __future__ import annotations

import statistics
from functools import partial

from django.db import connection

from benchmarks.measuring import (
    add_contacts,
    create_tenant,
    median_ratio,
    new_batches,
    start_table,
    time_in_turns,
    vacuum,
)
from calls.api.authentication import issue_token
from calls.tests.support.factories import FUNCTIONS, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

BATCHES, CONTACTS, LARGE = 10_000, 400, 1_000_000
ROUNDS = 100


def main() -> None:
    tenant = create_tenant()
    token = issue_token(tenant.owner)
    (batch,) = new_batches(tenant, 1)
    add_contacts("campaign_contacts", [batch], CONTACTS)
    vacuum("campaign_contacts")
    name = str(connection.settings_dict["NAME"])
    # CREATE DATABASE … TEMPLATE needs a database without connections.
    connection.close()
    connection.close_pool()
    with plain_connection(dbname="template1") as plain:
        plain.execute(f'DROP DATABASE IF EXISTS "{name}_small"')
        plain.execute(f'CREATE DATABASE "{name}_small" TEMPLATE "{name}"')
    large_batch, *others = (tenant.batch() for _ in range(BATCHES))
    add_contacts("campaign_contacts", others, CONTACTS)
    add_contacts("campaign_contacts", [large_batch], LARGE)
    vacuum("campaign_contacts")

    def get(address: str, server: str) -> None:
        status, _, answer = request(server, "GET", FUNCTIONS + address, Authorization=f"Bearer {token}")
        if status != 200:
            raise SystemExit(f"{status}: {answer}")

    print_row = start_table("first page", "small", f"{BATCHES:,} batches", "ratio")
    small_url = database_url().replace(f"/{name}?", f"/{name}_small?")
    with gunicorn(small_url, LOG_LEVEL="WARNING") as small, gunicorn(database_url(), LOG_LEVEL="WARNING") as large:
        for page, addresses in {
            "list": ("list", "list"),
            "list of one status": ("list?status=processing", "list?status=processing"),
            "get": (f"get?batch_id={batch.pk}", f"get?batch_id={batch.pk}"),
            f"get, {LARGE:,} contacts": (f"get?batch_id={batch.pk}", f"get?batch_id={large_batch.pk}"),
        }.items():
            functions = {
                server: partial(get, address) for server, address in zip((small, large), addresses, strict=True)
            }
            seconds = time_in_turns(ROUNDS, lambda number: [small, large], functions)
            print_row(
                page,
                *(f"{statistics.median(seconds[server]) * 1000:.1f} ms" for server in (small, large)),
                f"{median_ratio(seconds[large], seconds[small]):.2f}",
            )


if __name__ == "__main__":
    main()
