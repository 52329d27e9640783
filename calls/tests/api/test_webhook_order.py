"""Webhook events in any order, repeated and simultaneous: each takes effect once."""

import itertools

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CampaignContact, WebhookEvent
from calls.models import call as call_module
from calls.statuses import ContactStatus
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import batch_snapshot, cancel, checked_counters
from calls.tests.support.webhooks import WEBHOOK_SECRET, call_object, event_body

pytestmark = pytest.mark.django_db

END_REASONS = ["hangup", "agent_hangup", "timeout", "unjoined", "connection_error", "system_error"]
EVENTS = ["call.started", "call.joined", "call.ended", "call.billed"]


def test_an_end_event_before_the_call_is_recorded_takes_effect_when_it_is_recorded(harbour, deliver):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    assert deliver(event_body("call.ended", call_object("the-call"))).status_code == 200

    Call.record_placed(contact, "the-call", caller_id="+12125550199")

    contact.refresh_from_db()
    assert (contact.status, contact.duration_seconds) == (ContactStatus.COMPLETED, 45)


@pytest.mark.parametrize(
    "order", list(itertools.permutations(EVENTS)), ids=lambda order: " ".join(event[5:] for event in order)
)
def test_every_order_of_the_events_has_the_same_result(deliver, called_contact, order):
    for event in order:
        deliver(event_body(event, call_object("the-call", event)))

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.outcome, called_contact.duration_seconds) == (
        ContactStatus.COMPLETED,
        "answered",
        45,
    )
    assert checked_counters(called_contact.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_a_repeated_event_has_no_effect(deliver, called_contact):
    body = event_body("call.ended", call_object("the-call", reason="unjoined", joined=False))
    deliver(body)
    before = batch_snapshot(called_contact.batch)

    assert deliver(body).status_code == 200
    assert batch_snapshot(called_contact.batch) == before
    assert WebhookEvent.objects.count() == 1


# End reason, whether the call was joined, the contact's max_attempts, the SIP details, and the events that have them.
CALLS = st.lists(
    st.tuples(
        *(st.sampled_from(END_REASONS), st.booleans(), st.integers(1, 3)),
        *(
            st.sampled_from([None, "NORMAL", "BUSY", "INVALID_NUMBER"]),
            st.sampled_from([EVENTS, EVENTS[2:], EVENTS[3:]]),
        ),
    ),
    min_size=1,
    max_size=4,
    unique_by=str,
)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@hypothesis_settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(calls=CALLS, data=st.data())
@pytest.mark.acceptance
@pytest.mark.not_adopted
def test_shuffled_and_repeated_events_of_many_calls_have_the_same_result(harbour, deliver, calls, data):
    events = [
        event_body(
            event,
            call_object(
                *(f"call-{number}", event, reason),
                joined=joined and reason != "unjoined",
                sip=sip if event in known_by else None,
            ),
        )
        for number, (reason, joined, _, sip, known_by) in enumerate(calls)
        for event in EVENTS
        if event != "call.joined" or (joined and reason != "unjoined")
    ]
    shuffled = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=6))))
    recorded_after = data.draw(st.integers(0, len(shuffled)))
    cancelled_after = data.draw(st.none() | st.integers(0, len(shuffled)))

    def result_of(order, record_after, cancel_after):
        WebhookEvent.objects.all().delete()
        Call.objects.all().delete()
        batch = harbour.batch(queued=len(calls) + 1)
        for contact, (_, _, attempts, *_) in zip(batch.contacts.oldest_first(), calls, strict=False):
            CampaignContact.objects.filter(pk=contact.pk).update(max_attempts=attempts)
        claimed = [claim_next_contact(batch) for _ in calls]
        if cancel_after is not None:
            # Before all events: a contact whose call ends before the cancel would be queued again and then skipped.
            cancel(batch)
        for index, event in enumerate([*order, None]):
            if index == record_after:
                for number, contact in enumerate(claimed):
                    Call.record_placed(contact, f"call-{number}", caller_id="+12125550199")
            if event is not None:
                assert deliver(event).status_code == 200
        batch.refresh_from_db()
        return (
            batch.status,
            checked_counters(batch),
            [
                CampaignContact.objects.values_list("status", "outcome", "duration_seconds", "attempts").get(
                    pk=contact.pk
                )
                for contact in claimed
            ],
            sorted(Call.objects.values_list("ultravox_call_id", "status", "end_reason", "duration_seconds")),
        )

    assert result_of(shuffled, recorded_after, cancelled_after) == result_of(events, 0, cancelled_after)


@pytest.mark.django_db(transaction=True)
def test_two_simultaneous_deliveries_of_an_event_count_once(harbour, called_contact, deliver):
    body = event_body("call.ended", call_object("the-call", reason="unjoined", joined=False))
    harbour.agency.webhook_secret = WEBHOOK_SECRET
    harbour.agency.save()
    deliveries = [PausedThread(lambda: deliver(body).status_code) for _ in range(2)]
    for delivery in deliveries:
        delivery.start()

    assert [delivery.release() for delivery in deliveries] == [200, 200]
    assert WebhookEvent.objects.count() == 1
    assert checked_counters(called_contact.batch) == {"total_contacts": 2, "queued": 2}


@pytest.mark.django_db(transaction=True)
def test_an_end_event_while_the_call_is_being_recorded_is_not_lost(harbour, deliver):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    delivering = PausedThread(
        lambda: deliver(event_body("call.ended", call_object("the-call"))).status_code, after="pg_advisory"
    )
    with delivering:
        recording = PausedThread(lambda: Call.record_placed(contact, "the-call", caller_id="+12125550199"))
        recording.start()
        waited = wait_for_lock_waiter()
    recording.release()

    assert (delivering.outcome, waited) == (200, True)
    contact.refresh_from_db()
    assert contact.status == ContactStatus.COMPLETED


@pytest.mark.django_db(transaction=True)
def test_control_without_the_lock_on_the_call_the_end_event_is_lost(harbour, deliver, monkeypatch):
    monkeypatch.setattr(call_module, "lock_call", lambda call_id: None)
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    body = event_body("call.ended", call_object("the-call"))
    # The call is looked for before the event is stored, and once more afterwards.
    with PausedThread(lambda: deliver(body), after='SELECT "calls"."id"', nth=2):
        Call.record_placed(contact, "the-call", caller_id="+12125550199")

    contact.refresh_from_db()
    assert contact.status == ContactStatus.IN_PROGRESS
