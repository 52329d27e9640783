"""The time to replace a cancelled batch, compared with only the INSERT … SELECT that copies the same contacts."""

from __future__ import annotations

import statistics
from functools import partial

import psycopg

from benchmarks.measuring import (
    add_contacts,
    create_tenant,
    median_ratio,
    new_batches,
    start_table,
    time_in_turns,
    vacuum,
)
from calls.audit import Source
from calls.inputs import NewReplacement
from calls.models import CallBatch
from calls.models.querysets import COPY_SKIPPED
from calls.statuses import BatchStatus, skip_note
from calls.tests.support.factories import STAFF_ACTOR, Tenant, cancel, plain_connection

ROUNDS = {10_000: 10, 100_000: 5, 1_000_000: 1}


def replace(batch: CallBatch) -> None:
    batch.replace(NewReplacement(replaces=batch.pk), actor=STAFF_ACTOR, source=Source.API)


def copy_alone(plain: psycopg.Connection, tenant: Tenant, batch: CallBatch) -> None:
    """Copy the skipped contacts to a new batch, and do nothing else."""
    ids = {"agency": tenant.agency.pk, "campaign": tenant.campaign.pk, "batch": tenant.batch().pk}
    with plain.transaction():
        plain.execute(COPY_SKIPPED, ids | {"cancelled": batch.pk, "note": skip_note(BatchStatus.CANCELLED)})


def cancelled_batches(tenant: Tenant, contacts: int, number: int) -> list[CallBatch]:
    batches = new_batches(tenant, number)
    add_contacts("campaign_contacts", batches, contacts)
    for batch in batches:
        cancel(batch)
    vacuum("campaign_contacts")
    return batches


def main() -> None:
    tenant = create_tenant()
    print_row = start_table("contacts", "copy alone", "replace", "ratio", "required")
    with plain_connection() as plain:
        for contacts, rounds in ROUNDS.items():
            functions = {"alone": partial(copy_alone, plain, tenant), "replace": replace}
            seconds = time_in_turns(rounds, partial(cancelled_batches, tenant, contacts), functions)
            print_row(
                f"{contacts:,}",
                *(f"{statistics.median(seconds[name]) * 1000:,.0f} ms" for name in functions),
                f"{median_ratio(seconds['replace'], seconds['alone']):.2f}",
                "≤ 1.5",
            )


if __name__ == "__main__":
    main()
