"""The query plan of the copy of a replacement, with tens of thousands of contacts and events."""

import pytest
from django.db import connection

from calls.models.querysets import COPY_SKIPPED
from calls.statuses import BatchStatus, skip_note
from calls.tests.support.factories import cancel

# Not in one transaction, because the tables must be empty again for the plans of other tests.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]


@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "newer than the statistics"])
def test_the_events_about_a_contact_are_found_by_an_index_or_are_hashed_once(harbour, analyzed):
    cancelled, batch = harbour.batch(), harbour.batch()
    parameters = {
        "agency": harbour.agency.pk,
        "campaign": harbour.campaign.pk,
        "batch": batch.pk,
        "cancelled": cancelled.pk,
        "note": skip_note(BatchStatus.CANCELLED),
    }

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, status)"
            " SELECT %(agency)s, %(campaign)s, %(cancelled)s, '+12125550100', 'queued' FROM generate_series(1, 20000)",
            parameters,
        )
        cursor.execute(
            "INSERT INTO call_webhook_events (agency_id, event, ultravox_call_id, contact_id, identity, body)"
            " SELECT %(agency)s, 'call.ended', n, gen_random_uuid(), n, '{}' FROM generate_series(1, 50000) n",
            parameters,
        )
        cancel(cancelled)
        if analyzed:
            cursor.execute("ANALYZE campaign_contacts, call_webhook_events")
        cursor.execute(f"EXPLAIN {COPY_SKIPPED}", parameters)
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert " webhook_event_of_contact" in plan or "Hash Cond: (contact.id = event.contact_id)" in plan
    # It has all events of the agency.
    assert "webhook_event_once" not in plan
