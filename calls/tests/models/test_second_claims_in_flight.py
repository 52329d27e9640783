"""Call.record_event(): calls of another service whose contact was claimed several times, or is of another agency."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CampaignContact, WebhookEvent
from calls.statuses import ContactStatus
from calls.tests.support import earlier_service
from calls.tests.support.earlier_service import end_event
from calls.tests.support.factories import CALLER_ID, checked_counters
from calls.tests.support.webhooks import event_body

pytestmark = pytest.mark.django_db

HOUR, RETRY = timedelta(hours=1), timedelta(minutes=6)
INVALID_NUMBER = {"callId": "their-call", "sipDetails": {"terminationReason": "SIP_TERMINATION_INVALID_NUMBER"}}


@pytest.fixture
def deliver(harbour):
    """Store and apply an event, as the webhook endpoint does."""
    return lambda body: Call.record_event(WebhookEvent.from_body(harbour.agency, body.encode()))


def link_by_row_alone(call, *, stored):
    """Let only the call's row refer to the contact, and let it be stored at this time."""
    contact = CampaignContact.objects.get(call_id=call.pk)
    Call.objects.filter(pk=call.pk).update(contact=contact, created_at=stored)
    CampaignContact.objects.filter(pk=contact.pk).update(call_id=None)
    return contact


def test_the_end_of_a_second_claim_counts_although_the_contact_keeps_the_id_of_our_earlier_call(harbour, deliver):
    batch = harbour.batch(queued=2)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "our-call", caller_id=CALLER_ID)
    deliver(end_event("our-call", "unjoined", joined=False, ended=timezone.now() - HOUR))
    ours = CampaignContact.objects.get(pk=contact.pk).call_id
    batch.contacts.exclude(pk=contact.pk).update(created_at=timezone.now() + HOUR)
    again = link_by_row_alone(earlier_service.place_call(batch), stored=timezone.now())
    CampaignContact.objects.filter(pk=again.pk).update(call_id=ours, attempts=2)

    deliver(end_event())

    again.refresh_from_db()
    assert (again.pk, again.status) == (contact.pk, ContactStatus.COMPLETED)
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


@pytest.mark.parametrize("is_linked_both_ways", [True, False])
def test_a_late_event_of_an_attempt_that_just_ended_does_not_end_the_next_one(harbour, deliver, is_linked_both_ways):
    batch = harbour.batch(queued=1)
    call = earlier_service.place_call(batch, ago=RETRY)
    Call.objects.update(created_at=timezone.now() - RETRY)
    if not is_linked_both_ways:
        link_by_row_alone(call, stored=timezone.now() - RETRY)
    deliver(end_event("their-call", "unjoined", joined=False))
    again = claim_next_contact(batch)

    deliver(event_body("call.billed", {"callId": "their-call"}))

    again.refresh_from_db()
    assert (again.status, again.attempts) == (ContactStatus.IN_PROGRESS, 2)


def test_an_invalid_number_is_noticed_after_the_end_of_a_call_whose_row_alone_refers_to_the_contact(harbour, deliver):
    batch = harbour.batch(queued=2)
    contact = link_by_row_alone(earlier_service.place_call(batch), stored=timezone.now())
    deliver(end_event("their-call", "unjoined", joined=False))

    deliver(event_body("call.billed", INVALID_NUMBER))

    contact.refresh_from_db()
    assert (contact.status, contact.outcome_notes) == (ContactStatus.FAILED, "Invalid number")


def test_a_call_that_was_stored_shortly_before_the_claim_ends_it(harbour, deliver):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)
    contact = link_by_row_alone(call, stored=timezone.now() - timedelta(minutes=2, seconds=10))

    deliver(end_event())

    contact.refresh_from_db()
    assert contact.status == ContactStatus.COMPLETED


def test_only_the_batch_of_the_contact_is_locked_if_the_row_of_the_call_has_another_batch(harbour, deliver):
    batch, other = harbour.batch(queued=2), harbour.batch(queued=1)
    contact = link_by_row_alone(earlier_service.place_call(batch), stored=timezone.now())
    Call.objects.update(batch=other)

    with CaptureQueriesContext(connection) as queries:
        deliver(end_event())

    locks = [query["sql"] for query in queries if "FOR UPDATE" in query["sql"]]
    assert len(locks) == 1
    assert batch.pk.hex in locks[0].replace("-", "")
    contact.refresh_from_db()
    assert contact.status == ContactStatus.COMPLETED


def test_a_call_whose_row_refers_to_a_contact_of_another_agency_does_not_change_it(harbour, bluebell, deliver):
    contact = earlier_service.claim(bluebell.batch(queued=1))
    call = earlier_service.store_call(contact, agency=harbour.agency)
    link_by_row_alone(call, stored=timezone.now())

    deliver(end_event())

    contact.refresh_from_db()
    assert contact.status == ContactStatus.IN_PROGRESS


def test_a_contact_that_is_filed_under_another_agency_than_its_batch_is_found(harbour, bluebell, deliver):
    batch = harbour.batch(queued=1)
    contact = link_by_row_alone(earlier_service.place_call(batch), stored=timezone.now())
    CampaignContact.objects.filter(pk=contact.pk).update(agency=bluebell.agency)

    deliver(end_event())

    assert checked_counters(batch) == {"total_contacts": 1, "completed": 1}
