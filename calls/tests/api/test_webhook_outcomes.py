"""The outcome that a webhook event gives to a call and its contact."""

import pytest
from django.db import connection

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import cancel, checked_counters, pause, plain_connection
from calls.tests.support.webhooks import CREATED, ENDED, JOINED, call_object, event_body

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("reason", ["hangup", "agent_hangup", "timeout"])
def test_a_joined_call_completes_the_contact_with_its_duration_since_joining(deliver, called_contact, reason):
    assert deliver(event_body("call.ended", call_object("the-call", reason=reason))).json() == {"success": True}

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.outcome, called_contact.duration_seconds) == (
        ContactStatus.COMPLETED,
        "answered",
        45,
    )
    recorded = Call.objects.get()
    assert (recorded.joined_at, recorded.ended_at, recorded.duration_seconds) == (JOINED, ENDED, 45)
    assert (recorded.status, recorded.end_reason, recorded.short_summary) == ("ended", reason, "They talked.")
    assert checked_counters(called_contact.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


@pytest.mark.parametrize(
    ("reason", "joined", "outcome"),
    [
        ("unjoined", False, "no_answer"),
        ("hangup", False, "no_answer"),
        ("connection_error", True, "failed"),
        ("system_error", False, "failed"),
    ],
)
@pytest.mark.parametrize(
    ("max_attempts", "batch_status", "contact_status"),
    [
        (3, None, ContactStatus.QUEUED),
        (1, None, ContactStatus.FAILED),
        (3, BatchStatus.CANCELLED, ContactStatus.FAILED),
        (3, BatchStatus.COMPLETED, ContactStatus.FAILED),
        (3, BatchStatus.PAUSED, ContactStatus.QUEUED),
    ],
    ids=["attempts left", "none left", "cancelled", "completed", "paused"],
)
def test_an_unsuccessful_call_is_retried_while_attempts_are_left_and_the_batch_is_unfinished(
    deliver, called_contact, reason, joined, outcome, max_attempts, batch_status, contact_status
):
    called_contact.max_attempts = max_attempts
    called_contact.save()
    if batch_status == BatchStatus.CANCELLED:
        cancel(called_contact.batch)
    elif batch_status == BatchStatus.PAUSED:
        pause(called_contact.batch)
    elif batch_status:
        called_contact.batch.contacts.filter(status=ContactStatus.QUEUED).delete()
        CallBatch.objects.update(status=batch_status, completed_at=CREATED, queued=0, total_contacts=1)
    before = CallBatch.objects.get()

    deliver(event_body("call.ended", call_object("the-call", reason=reason, joined=joined)))

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.outcome) == (contact_status, outcome)
    batch = CallBatch.objects.get()
    assert (batch.status, batch.completed_at) == (before.status, before.completed_at)
    checked_counters(batch)


def test_a_call_counts_as_answered_when_an_earlier_event_reported_the_join(deliver, called_contact):
    deliver(event_body("call.joined", {"callId": "the-call", "joined": JOINED.isoformat()}))
    deliver(event_body("call.ended", {"callId": "the-call", "ended": ENDED.isoformat(), "endReason": "hangup"}))

    called_contact.refresh_from_db()
    assert (called_contact.outcome, called_contact.duration_seconds) == ("answered", 45)


def test_events_before_the_end_leave_the_contact_in_progress(deliver, called_contact):
    for event in ("call.started", "call.joined"):
        deliver(event_body(event, call_object("the-call", event)))

    called_contact.refresh_from_db()
    assert called_contact.status == ContactStatus.IN_PROGRESS
    assert (Call.objects.get().status, Call.objects.get().joined_at) == ("joined", JOINED)


def test_a_late_end_event_does_not_end_the_next_attempt(deliver, called_contact):
    called_contact.batch.contacts.exclude(pk=called_contact.pk).update(status=ContactStatus.SKIPPED)
    called_contact.record_failed(outcome="no_answer")
    next_attempt = claim_next_contact(called_contact.batch)
    assert next_attempt.pk == called_contact.pk
    Call.record_placed(next_attempt, "the-next-call", caller_id="+12125550199")

    deliver(event_body("call.ended", call_object("the-call")))

    next_attempt.refresh_from_db()
    assert next_attempt.status == ContactStatus.IN_PROGRESS
    assert Call.objects.get(ultravox_call_id="the-call").end_reason == "hangup"


@pytest.mark.parametrize("event", ["call.ended", "call.billed"])
def test_a_late_event_does_not_end_an_attempt_of_another_service_that_still_has_the_old_call_id(
    deliver, called_contact, event
):
    deliver(event_body("call.ended", call_object("the-call", reason="unjoined", joined=False)))
    CampaignContact.objects.filter(pk=called_contact.pk).update(status=ContactStatus.IN_PROGRESS, attempts=2)

    deliver(event_body(event, call_object("the-call", event, "unjoined", joined=False)))

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.attempts) == (ContactStatus.IN_PROGRESS, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("statement", ["UPDATE campaign_contacts SET batch_id = NULL", "DELETE FROM call_batches"])
def test_the_end_of_a_call_whose_contact_has_no_batch_is_stored_and_changes_no_contact(
    deliver, called_contact, statement
):
    Call.objects.update(batch=None)
    with plain_connection() as plain:
        plain.execute("SET session_replication_role = replica")
        plain.execute(statement)

    assert deliver(event_body("call.ended", call_object("the-call"))).status_code == 200

    called_contact.refresh_from_db()
    assert called_contact.status == ContactStatus.IN_PROGRESS
    assert Call.objects.get().end_reason == "hangup"


def test_the_contact_is_completed_even_if_the_calls_table_rejects_the_values_of_the_event(
    deliver, called_contact, caplog
):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE calls ADD CONSTRAINT short CHECK (length(end_reason) < 6)")

    assert deliver(event_body("call.ended", call_object("the-call"))).status_code == 200

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.outcome) == (ContactStatus.COMPLETED, "answered")
    assert "the table calls rejects a value of its events: IntegrityError" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": "soon", "joined": 7},
        {"ended": None},
        {"ended": "9999-12-31T23:59:59-23:00"},
        {"joined": "0001-01-01T00:00:00+14:00"},
        {"endReason": ["x"], "shortSummary": "\0\ud800"},
        {"joined": ENDED.isoformat(), "ended": JOINED.isoformat()},
        {"created": {}, "endReason": "an unknown reason"},
    ],
)
def test_an_end_event_with_invalid_details_still_ends_the_call(deliver, called_contact, changes):
    assert deliver(event_body("call.ended", call_object("the-call") | changes)).status_code == 200

    called_contact.refresh_from_db()
    assert called_contact.status != ContactStatus.IN_PROGRESS
    checked_counters(called_contact.batch)
