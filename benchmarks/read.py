"""What the first page of a list costs in a large database, beside the same in a small one on the same server."""

from __future__ import annotations

import statistics
from functools import partial

from django.db import connection

from benchmarks.measuring import fill, fresh, in_turns, prepare, ratio, settle, table
from calls.api.authentication import issue_token
from calls.tests.support.factories import FUNCTIONS, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

BATCHES, CONTACTS, LARGE = 10_000, 400, 1_000_000
ROUNDS = 100


def main() -> None:
    tenant = prepare()
    token = issue_token(tenant.owner)
    (small,) = fresh(tenant, 1)
    fill("campaign_contacts", [small], CONTACTS)
    settle("campaign_contacts")
    name = str(connection.settings_dict["NAME"])
    connection.close()
    connection.close_pool()
    with plain_connection(dbname="template1") as plain:
        plain.execute(f'DROP DATABASE IF EXISTS "{name}_small"')
        plain.execute(f'CREATE DATABASE "{name}_small" TEMPLATE "{name}"')
    large, *others = (tenant.batch() for _ in range(BATCHES))
    fill("campaign_contacts", others, CONTACTS)
    fill("campaign_contacts", [large], LARGE)
    settle("campaign_contacts")

    def ask(address: str, server: str) -> None:
        status, _, answer = request(server, "GET", FUNCTIONS + address, Authorization=f"Bearer {token}")
        if status != 200:
            raise SystemExit(f"{status}: {answer}")

    row = table("first page", "small", f"{BATCHES:,} batches", "ratio")
    small_url = database_url().replace(f"/{name}?", f"/{name}_small?")
    with gunicorn(small_url, LOG_LEVEL="WARNING") as one, gunicorn(database_url(), LOG_LEVEL="WARNING") as other:
        for what, addresses in {
            "list": ("list", "list"),
            "list of one status": ("list?status=processing", "list?status=processing"),
            "get": (f"get?batch_id={small.pk}", f"get?batch_id={small.pk}"),
            "get, of 1,000,000 contacts": (f"get?batch_id={small.pk}", f"get?batch_id={large.pk}"),
        }.items():
            works = {server: partial(ask, address) for server, address in zip((one, other), addresses, strict=True)}
            taken = in_turns(ROUNDS, lambda number: [one, other], works)
            row(
                what,
                *(f"{statistics.median(taken[server]) * 1000:.1f} ms" for server in (one, other)),
                f"{ratio(taken[other], taken[one]):.2f}",
            )


if __name__ == "__main__":
    main()
