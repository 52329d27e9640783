"""run_sweep(): calls that another service placed before the switch, linked only by the contact's ``call_id``."""

from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection

from calls.dialler.sweep import SweepResult, run_sweep
from calls.models import Call, CampaignContact, WebhookEvent
from calls.statuses import ContactStatus
from calls.tests.support import earlier_service
from calls.tests.support.attempts import LONG_AGO
from calls.tests.support.factories import backdate_attempts, cancel, checked_counters

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def their_call(harbour, ultravox):
    """A call of another service that began two hours ago. Its batch has another contact, which is queued."""
    call_id = ultravox.add_call({})["callId"]
    return earlier_service.place_call(harbour.batch(queued=2), call_id, ago=LONG_AGO)


def contact_of(call):
    return CampaignContact.objects.get(call_id=call.pk)


def test_a_call_whose_end_was_never_delivered_is_ended(their_call, ultravox):
    ultravox.end_call(ultravox.calls[their_call.ultravox_call_id])

    assert run_sweep() == SweepResult(ended=1)
    their_call.refresh_from_db()
    contact = contact_of(their_call)
    assert (contact.status, contact.outcome) == (ContactStatus.COMPLETED, "answered")
    assert (their_call.contact, their_call.batch) == (contact, contact.batch)
    assert checked_counters(contact.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}
    assert run_sweep() == SweepResult()


def test_a_call_whose_row_alone_names_the_contact_is_linked_and_ended_and_nobody_is_called_again(their_call, ultravox):
    contact = contact_of(their_call)
    Call.objects.update(contact=contact)
    CampaignContact.objects.update(call_id=None)
    # The other service stored it when it was placed.
    Call.objects.update(created_at=contact.last_attempt_at)

    assert run_sweep() == SweepResult(recorded=1)
    contact.refresh_from_db()
    assert (contact.status, contact.call_id) == (ContactStatus.IN_PROGRESS, their_call.pk)
    ultravox.end_call(ultravox.calls[their_call.ultravox_call_id])
    assert run_sweep() == SweepResult(ended=1)
    assert checked_counters(contact.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_a_call_that_was_stored_before_the_claim_is_not_linked(their_call):
    contact = contact_of(their_call)
    Call.objects.update(contact=contact, created_at=contact.last_attempt_at - timedelta(minutes=2))
    CampaignContact.objects.update(call_id=None)

    assert run_sweep() == SweepResult(given_back=1)


@contextmanager
def nullable(column, default):
    """Let a column of ``calls`` be NULL, as in an adopted table. At the end, all rows get the SQL ``default``."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE calls ALTER {column} DROP NOT NULL")
        try:
            yield
        finally:
            cursor.execute(f"UPDATE calls SET {column} = {default}; ALTER TABLE calls ALTER {column} SET NOT NULL")


@pytest.mark.parametrize("stored", ["shortly before", "at an unknown time"])
def test_a_call_that_was_stored_shortly_before_the_claim_or_at_an_unknown_time_is_linked(their_call, stored):
    contact = contact_of(their_call)
    CampaignContact.objects.update(call_id=None)
    created_at = contact.last_attempt_at - timedelta(seconds=30) if stored == "shortly before" else None
    with nullable("created_at", "now()"):
        Call.objects.update(contact=contact, created_at=created_at)

        assert run_sweep() == SweepResult(recorded=1)


@pytest.mark.parametrize("metadata", [None, [], "text"])
def test_a_call_without_metadata_is_linked_and_nobody_is_called_again(their_call, metadata):
    contact = contact_of(their_call)
    CampaignContact.objects.update(call_id=None)
    with nullable("metadata", "'{}'"):
        Call.objects.update(contact=contact, created_at=contact.last_attempt_at, metadata=metadata)

        assert run_sweep() == SweepResult(recorded=1)


def test_a_second_claim_that_keeps_the_id_of_the_earlier_call_is_linked_to_its_own(their_call, harbour, ultravox):
    contact = contact_of(their_call)
    Call.objects.update(contact=contact, created_at=contact.last_attempt_at - timedelta(hours=1))
    second = ultravox.add_call({})["callId"]
    Call.objects.create(
        agency=harbour.agency, ultravox_call_id=second, contact=contact, created_at=contact.last_attempt_at
    )

    assert run_sweep() == SweepResult(recorded=1)
    ultravox.end_call(ultravox.calls[second])
    assert run_sweep() == SweepResult(ended=1)
    contact.refresh_from_db()
    assert contact.status == ContactStatus.COMPLETED


def test_a_call_that_has_not_ended_stays_in_progress(their_call):
    assert run_sweep() == SweepResult()
    assert contact_of(their_call).status == ContactStatus.IN_PROGRESS


def test_a_call_that_ended_after_the_cancel_is_counted_and_not_tried_again(their_call, ultravox):
    ultravox.end_call(ultravox.calls[their_call.ultravox_call_id], "unjoined", joined=False)
    cancel(contact_of(their_call).batch)

    assert run_sweep() == SweepResult(ended=1)
    contact = contact_of(their_call)
    assert (contact.status, contact.outcome) == (ContactStatus.FAILED, "no_answer")
    assert checked_counters(contact.batch) == {"total_contacts": 2, "failed": 1, "skipped": 1}


def test_an_event_that_was_delivered_before_the_call_was_stored_takes_effect(harbour, ultravox):
    batch = harbour.batch(queued=2)
    contact = earlier_service.claim(batch, ago=LONG_AGO)
    call = ultravox.add_call({})
    body = earlier_service.end_event(call["callId"], "unjoined", joined=False)
    Call.record_event(WebhookEvent.from_body(harbour.agency, body.encode()))
    earlier_service.store_call(contact, call["callId"])
    ultravox.end_call(call, "unjoined", joined=False)

    assert run_sweep() == SweepResult(ended=1)
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 2}


def test_two_contacts_that_name_the_same_call_are_left_alone_for_a_day(their_call, ultravox):
    batch = contact_of(their_call).batch
    other = earlier_service.claim(batch, ago=LONG_AGO)
    earlier_service.link_call(other, their_call.pk)
    ultravox.end_call(ultravox.calls[their_call.ultravox_call_id])

    run_sweep()
    assert checked_counters(batch) == {"total_contacts": 2, "in_progress": 2}

    backdate_attempts(batch, timedelta(days=1))
    run_sweep()
    # One was given up. The call then belonged to the other one.
    assert checked_counters(batch) == {"total_contacts": 2, "completed": 1, "failed": 1}
