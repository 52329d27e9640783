"""
Call.record_event(): calls that another service placed before the switch to this app.

The row in ``calls`` names no contact. Only the contact's ``call_id`` links the two.
"""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CampaignContact, WebhookEvent
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support import earlier_service
from calls.tests.support.earlier_service import end_event
from calls.tests.support.factories import CALLER_ID, batch_snapshot, cancel, checked_counters, pause
from calls.tests.support.many_rows import vacuum_tables
from calls.tests.support.webhooks import call_object, event_body

pytestmark = pytest.mark.django_db


@pytest.fixture
def deliver(harbour):
    """Store and apply an event, as the webhook endpoint does."""
    return lambda body: Call.record_event(WebhookEvent.from_body(harbour.agency, body.encode()))


def contact_of(call):
    return CampaignContact.objects.get(call_id=call.pk)


def test_the_end_of_a_call_completes_the_contact_whose_call_id_refers_to_it(harbour, deliver):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)

    deliver(end_event())

    contact = contact_of(call)
    assert (contact.status, contact.outcome, contact.duration_seconds) == (ContactStatus.COMPLETED, "answered", 45)
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_the_call_then_refers_to_its_contact_and_batch(harbour, deliver):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)

    deliver(end_event())

    call.refresh_from_db()
    assert (call.contact, call.batch, call.end_reason) == (contact_of(call), batch, "hangup")


def test_the_counters_of_the_contacts_batch_change(harbour, deliver):
    batch, other = harbour.batch(queued=2), harbour.batch(queued=2)
    call = earlier_service.place_call(batch)
    Call.objects.update(batch=other)

    deliver(end_event())

    call.refresh_from_db()
    assert (call.contact, call.batch) == (contact_of(call), other)
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}
    assert checked_counters(other) == {"total_contacts": 2, "queued": 2}


def test_a_call_that_was_not_answered_is_tried_again(harbour, deliver):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)

    deliver(end_event(reason="unjoined", joined=False))

    assert (contact_of(call).status, contact_of(call).outcome) == (ContactStatus.QUEUED, "no_answer")
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 2}


@pytest.mark.parametrize("stop", [cancel, pause])
def test_a_call_that_ends_after_its_batch_was_stopped_is_counted_and_the_batch_stays_stopped(harbour, deliver, stop):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)
    stop(batch)
    stopped = type(batch).objects.get(pk=batch.pk)

    deliver(end_event())

    batch.refresh_from_db()
    assert contact_of(call).status == ContactStatus.COMPLETED
    assert (batch.status, batch.completed_at) == (stopped.status, stopped.completed_at)
    assert checked_counters(batch)["completed"] == 1


def test_the_last_call_completes_the_batch(harbour, deliver):
    batch = harbour.batch(queued=1)
    earlier_service.place_call(batch)

    deliver(end_event())

    batch.refresh_from_db()
    assert batch.status == BatchStatus.COMPLETED


def test_a_repeated_end_event_has_no_effect(harbour, deliver):
    batch = harbour.batch(queued=2)
    earlier_service.place_call(batch)
    body = end_event(reason="unjoined", joined=False)
    deliver(body)
    before = batch_snapshot(batch)

    deliver(body)

    assert batch_snapshot(batch) == before


def test_an_invalid_number_that_is_reported_after_the_end_stops_the_retry(harbour, deliver):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)
    deliver(end_event(reason="unjoined", joined=False))

    details = {"sipDetails": {"terminationReason": "SIP_TERMINATION_INVALID_NUMBER"}}
    deliver(event_body("call.billed", {"callId": "their-call"} | details))

    assert (contact_of(call).status, contact_of(call).outcome_notes) == (ContactStatus.FAILED, "Invalid number")
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "failed": 1}


def test_a_call_placed_before_the_switch_and_one_placed_after_it_both_end(harbour, deliver):
    batch = harbour.batch(queued=3)
    earlier_service.place_call(batch)
    Call.record_placed(claim_next_contact(batch), "our-call", caller_id=CALLER_ID)

    deliver(end_event("our-call"))
    deliver(end_event("their-call"))

    assert checked_counters(batch) == {"total_contacts": 3, "queued": 1, "completed": 2}


def test_an_end_that_the_other_service_has_recorded_counts_once(harbour, deliver):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)
    with connection.cursor() as cursor:
        cursor.execute(earlier_service.END_CALL, [contact_of(call).pk])
        cursor.execute(earlier_service.COUNT_END, [batch.pk])
    before = batch_snapshot(batch)

    deliver(end_event())

    assert batch_snapshot(batch) == before
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_an_event_before_the_call_is_stored_takes_effect_with_the_next_event(harbour, deliver):
    batch = harbour.batch(queued=2)
    contact = earlier_service.claim(batch)
    deliver(end_event())
    call = earlier_service.store_call(contact)
    assert contact_of(call).status == ContactStatus.IN_PROGRESS

    deliver(event_body("call.billed", {"callId": "their-call"}))

    assert contact_of(call).status == ContactStatus.COMPLETED
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


# Contacts that a call does not belong to


def test_a_contact_of_another_agency_is_not_changed(harbour, bluebell, deliver):
    batch = bluebell.batch(queued=2)
    call = earlier_service.store_call(earlier_service.claim(batch), agency=harbour.agency)
    before = batch_snapshot(batch)

    deliver(end_event())

    call.refresh_from_db()
    assert (call.contact, call.end_reason) == (None, "hangup")
    assert batch_snapshot(batch) == before


def test_of_two_contacts_that_refer_to_the_same_call_none_is_changed(harbour, deliver, caplog):
    batch = harbour.batch(queued=3)
    call = earlier_service.place_call(batch)
    earlier_service.link_call(earlier_service.claim(batch), call.pk)
    before = batch_snapshot(batch)

    deliver(end_event())

    assert batch_snapshot(batch) == before
    assert [record.message for record in caplog.records if "several contacts" in record.message] == [
        "call=their-call: several contacts refer to it, so none of them is changed"
    ]


def test_the_contact_in_the_calls_row_wins_over_one_whose_call_id_refers_to_the_call(harbour, deliver):
    batch = harbour.batch(queued=3)
    call = earlier_service.place_call(batch)
    named = contact_of(call)
    Call.objects.update(contact=named, batch=batch)
    other = earlier_service.claim(batch)
    earlier_service.link_call(other, call.pk)

    deliver(end_event())

    named.refresh_from_db()
    other.refresh_from_db()
    assert (named.status, other.status) == (ContactStatus.COMPLETED, ContactStatus.IN_PROGRESS)


def test_a_contact_without_a_batch_is_not_changed(harbour, deliver):
    call = earlier_service.place_call(harbour.batch(queued=2))
    CampaignContact.objects.filter(call_id=call.pk).update(batch=None)

    deliver(end_event())

    call.refresh_from_db()
    assert (contact_of(call).status, call.end_reason) == (ContactStatus.IN_PROGRESS, "hangup")


def test_the_end_of_a_call_completes_the_contact_that_its_row_refers_to(harbour, deliver):
    batch = harbour.batch(queued=2)
    stored = earlier_service.place_call(batch)
    contact = CampaignContact.objects.get(call_id=stored.pk)
    Call.objects.update(contact=contact)
    CampaignContact.objects.update(call_id=None)

    deliver(end_event())

    contact.refresh_from_db()
    assert contact.status == ContactStatus.COMPLETED
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_an_event_of_a_call_whose_batch_was_deleted_is_stored(harbour, deliver):
    batch = harbour.batch(queued=1)
    stored = earlier_service.place_call(batch)
    Call.objects.update(batch=batch)
    CampaignContact.objects.update(batch=None)
    with connection.cursor() as cursor:
        # As in a table without the foreign key.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            "SELECT quote_ident(conname) FROM pg_constraint"
            " WHERE conrelid = 'calls'::regclass AND confrelid = 'call_batches'::regclass"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE calls DROP CONSTRAINT {name}")
        cursor.execute("SET LOCAL session_replication_role = replica; DELETE FROM call_batches")
        cursor.execute("SET LOCAL session_replication_role = origin")

    deliver(end_event())

    stored.refresh_from_db()
    assert (WebhookEvent.objects.count(), stored.status) == (1, "ended")


def test_a_stored_call_without_metadata_gets_the_attempt_of_the_contact(harbour):
    contact = claim_next_contact(harbour.batch(queued=1))
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE calls ALTER metadata DROP NOT NULL")
    Call.objects.create(agency=harbour.agency, ultravox_call_id="a-call", metadata=None)

    assert Call.record_placed(contact, "a-call", caller_id=CALLER_ID)

    assert Call.objects.get().metadata == {"attempt": 1}


def test_the_late_end_of_a_call_does_not_end_a_claim_that_has_no_call_yet(harbour, deliver):
    batch = harbour.batch(queued=1)
    earlier_service.place_call(batch, ago=timedelta(hours=1))
    Call.objects.update(contact=batch.contacts.get())
    batch.contacts.update(call_id=None, last_attempt_at=timezone.now(), attempts=2)

    deliver(end_event(ended=timezone.now() - timedelta(minutes=50)))

    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}


@pytest.mark.parametrize("linked", [False, True], ids=["the first event", "a later event"])
def test_a_late_event_does_not_end_a_second_claim_of_the_other_service_that_keeps_the_call_id(harbour, deliver, linked):
    batch = harbour.batch(queued=2)
    call = earlier_service.place_call(batch)
    if linked:
        deliver(event_body("call.started", call_object("their-call", "call.started")))
    ended = timezone.now() - timedelta(minutes=1)
    CampaignContact.objects.filter(call_id=call.pk).update(attempts=2, last_attempt_at=timezone.now())

    deliver(end_event(ended=ended))

    assert contact_of(call).status == ContactStatus.IN_PROGRESS
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "in_progress": 1}


def test_clocks_that_differ_by_a_second_do_not_matter(harbour, deliver):
    call = earlier_service.place_call(harbour.batch(queued=2), ago=timedelta(0))

    deliver(end_event(ended=timezone.now() - timedelta(seconds=1)))

    assert contact_of(call).status == ContactStatus.COMPLETED


def test_an_end_in_the_year_9999_still_ends_the_call(harbour, deliver):
    call = earlier_service.place_call(harbour.batch(queued=2))

    deliver(event_body("call.ended", call_object("their-call") | {"ended": "9999-12-31T23:59:59.999999Z"}))

    assert contact_of(call).status != ContactStatus.IN_PROGRESS


def test_a_placed_call_that_another_contact_refers_to_is_not_reassigned(harbour, caplog):
    batch = harbour.batch(queued=3)
    call = earlier_service.place_call(batch)
    claimed = claim_next_contact(batch)

    assert Call.record_placed(claimed, "their-call", caller_id=CALLER_ID) is False
    call.refresh_from_db()
    assert (call.contact, CampaignContact.objects.get(pk=claimed.pk).call_id) == (None, None)
    assert "belongs to another contact" in caplog.text


# How the contact is found


def test_an_event_of_a_call_that_refers_to_its_contact_needs_no_query_for_it(harbour, deliver):
    batch = harbour.batch(queued=2)
    Call.record_placed(claim_next_contact(batch), "our-call", caller_id=CALLER_ID)

    with CaptureQueriesContext(connection) as queries:
        deliver(event_body("call.started", call_object("our-call", "call.started")))

    assert not [query["sql"] for query in queries if 'FROM "campaign_contacts"' in query["sql"]]


@pytest.mark.django_db(transaction=True)
@pytest.mark.not_adopted
def test_the_contact_is_found_by_the_index_of_calls_in_progress(harbour):
    batch = harbour.batch(queued=300, in_progress=300)
    batch.contacts.filter(status=ContactStatus.IN_PROGRESS).update(last_attempt_at=timezone.now())
    call = earlier_service.place_call(batch)
    with connection.cursor() as cursor:
        vacuum_tables(cursor)

    plan = call._contacts_in_progress[:2].explain()

    assert "contact_calling_number" in plan
    assert "Seq Scan" not in plan
