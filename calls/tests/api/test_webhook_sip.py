"""How the carrier ended a call that was never joined: kept as its end reason. An invalid number is not called again."""

import itertools

import pytest

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, batch_snapshot, cancel, checked_counters
from calls.tests.support.webhooks import call_object, event_body

pytestmark = pytest.mark.django_db

INVALID = "SIP_TERMINATION_INVALID_NUMBER"


def unjoined(event="call.ended", sip=None, **call):
    """Return the body of an event of a call that was never joined."""
    return event_body(event, call_object("the-call", event, "unjoined", joined=False, sip=sip) | call)


# The end reason


@pytest.mark.parametrize("sip", ["BUSY", "REJECTED", "TIMEOUT", "CANCELED", "DESTINATION_UNAVAILABLE", "SOMETHING_NEW"])
def test_the_carriers_reason_is_the_end_reason_of_a_call_that_was_never_joined(deliver, called_contact, sip):
    deliver(unjoined(sip=sip))

    called_contact.refresh_from_db()
    assert Call.objects.get().end_reason == f"SIP_TERMINATION_{sip}"
    assert (called_contact.status, called_contact.outcome) == (ContactStatus.QUEUED, "no_answer")


@pytest.mark.parametrize("sip", ["NORMAL", "UNKNOWN", None])
def test_a_reason_of_the_carrier_that_says_nothing_is_not_kept(deliver, called_contact, sip):
    deliver(unjoined(sip=sip))

    assert Call.objects.get().end_reason == "unjoined"


@pytest.mark.parametrize("details", ["BUSY", [], {}, {"terminationReason": None}, {"terminationReason": 486}, 7])
def test_invalid_sip_details_are_ignored(deliver, called_contact, details):
    assert deliver(unjoined(sipDetails=details)).status_code == 200

    called_contact.refresh_from_db()
    assert (called_contact.status, Call.objects.get().end_reason) == (ContactStatus.QUEUED, "unjoined")


@pytest.mark.parametrize("sip", ["NORMAL", "BUSY", "INVALID_NUMBER"])
def test_the_sip_details_of_a_joined_call_change_nothing(deliver, called_contact, sip):
    deliver(event_body("call.ended", call_object("the-call", sip=sip)))

    called_contact.refresh_from_db()
    assert (called_contact.status, Call.objects.get().end_reason) == (ContactStatus.COMPLETED, "hangup")


def test_an_error_of_the_provider_is_a_failure_whatever_the_carrier_says(deliver, called_contact):
    deliver(unjoined(sip="BUSY", endReason="system_error"))

    called_contact.refresh_from_db()
    assert (called_contact.outcome, Call.objects.get().end_reason) == ("failed", "SIP_TERMINATION_BUSY")


def test_a_call_in_progress_has_no_end_reason_yet(deliver, called_contact):
    deliver(unjoined("call.started", sip="BUSY"))

    called_contact.refresh_from_db()
    assert (called_contact.status, Call.objects.get().end_reason) == (ContactStatus.IN_PROGRESS, None)


# An invalid number


def test_a_contact_with_an_invalid_number_fails_at_once_although_attempts_are_left(deliver, called_contact):
    assert called_contact.max_attempts == 3

    deliver(unjoined(sip="INVALID_NUMBER"))

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.attempts) == (ContactStatus.FAILED, 1)
    assert (called_contact.outcome, called_contact.outcome_notes) == ("no_answer", "Invalid number")
    assert called_contact.completed_at is not None
    assert Call.objects.get().end_reason == INVALID
    assert checked_counters(called_contact.batch) == {"total_contacts": 2, "queued": 1, "failed": 1}


SIP_KNOWN_BY = {"call.started": None, "call.ended": None, "call.billed": "INVALID_NUMBER"}


@pytest.mark.parametrize("known_by_all", [False, True], ids=["known by billed", "known by ended and billed"])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(SIP_KNOWN_BY)), ids=" ".join)
def test_every_order_of_the_events_of_a_call_to_an_invalid_number_has_the_same_result(
    deliver, called_contact, order, repeated, known_by_all
):
    for event in order * (1 + repeated):
        sip = "INVALID_NUMBER" if known_by_all and event == "call.ended" else SIP_KNOWN_BY[event]
        deliver(unjoined(event, sip=sip))

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.attempts) == (ContactStatus.FAILED, 1)
    assert (called_contact.outcome, called_contact.outcome_notes) == ("no_answer", "Invalid number")
    assert Call.objects.get().end_reason == INVALID
    assert checked_counters(called_contact.batch) == {"total_contacts": 2, "queued": 1, "failed": 1}


def test_events_that_arrive_before_the_call_is_recorded_have_the_same_result(harbour, deliver):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    deliver(unjoined())
    deliver(unjoined("call.billed", sip="INVALID_NUMBER"))

    Call.record_placed(contact, "the-call", caller_id=CALLER_ID)

    contact.refresh_from_db()
    batch.refresh_from_db()
    assert (contact.status, contact.outcome_notes) == (ContactStatus.FAILED, "Invalid number")
    assert batch.status == BatchStatus.COMPLETED


def test_the_batch_is_completed_when_its_last_contact_is_not_called_again(deliver, called_contact):
    called_contact.batch.contacts.exclude(pk=called_contact.pk).delete()
    type(called_contact.batch).objects.update(total_contacts=1, queued=0)
    deliver(unjoined())
    assert checked_counters(called_contact.batch) == {"total_contacts": 1, "queued": 1}

    deliver(unjoined("call.billed", sip="INVALID_NUMBER"))

    called_contact.batch.refresh_from_db()
    assert called_contact.batch.status == BatchStatus.COMPLETED


def test_only_the_end_reason_changes_when_another_reason_is_known_later(deliver, called_contact):
    deliver(unjoined())
    batch, contacts, history = batch_snapshot(called_contact.batch)

    deliver(unjoined("call.billed", sip="BUSY"))

    assert batch_snapshot(called_contact.batch) == [batch, contacts, history]
    assert Call.objects.get().end_reason == "SIP_TERMINATION_BUSY"


def test_a_retry_that_has_been_claimed_is_not_stopped(deliver, called_contact):
    deliver(unjoined())
    _, next_attempt = (claim_next_contact(called_contact.batch) for _ in range(2))
    assert next_attempt.pk == called_contact.pk

    deliver(unjoined("call.billed", sip="INVALID_NUMBER"))

    next_attempt.refresh_from_db()
    assert (next_attempt.status, next_attempt.attempts) == (ContactStatus.IN_PROGRESS, 2)
    assert Call.objects.get().end_reason == INVALID


def test_a_contact_of_a_cancelled_batch_keeps_its_result(deliver, called_contact):
    deliver(unjoined())
    cancel(called_contact.batch)
    before = batch_snapshot(called_contact.batch)

    deliver(unjoined("call.billed", sip="INVALID_NUMBER"))

    assert batch_snapshot(called_contact.batch) == before


def test_a_call_that_ends_after_the_cancel_fails_its_contact(deliver, called_contact):
    cancel(called_contact.batch)

    deliver(unjoined(sip="INVALID_NUMBER"))

    called_contact.refresh_from_db()
    assert (called_contact.status, called_contact.outcome_notes) == (ContactStatus.FAILED, "Invalid number")
    assert checked_counters(called_contact.batch) == {"total_contacts": 2, "failed": 1, "skipped": 1}


def test_a_repeated_event_does_not_stop_a_contact_that_another_service_has_queued_again(deliver, called_contact):
    deliver(unjoined(sip="INVALID_NUMBER"))
    CampaignContact.objects.filter(pk=called_contact.pk).update(status=ContactStatus.QUEUED, completed_at=None)

    deliver(unjoined(sip="INVALID_NUMBER"))

    called_contact.refresh_from_db()
    assert called_contact.status == ContactStatus.QUEUED
