"""How a refusal of all calls is recorded, and how the dialler's pause begins and ends."""

import pytest

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CallBatch
from calls.statuses import FINAL, BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, batch_snapshot, cancel, checked_counters, resume

pytestmark = pytest.mark.django_db

REASON = "HTTP 402: No credit."


def status_and_message(batch):
    batch.refresh_from_db()
    return batch.status, batch.error_message


# The refusal


def test_a_refusal_of_all_calls_pauses_the_batch_and_gives_the_contact_back(harbour):
    batch = harbour.batch(queued=2)

    assert claim_next_contact(batch).record_batch_refused(reason=REASON)

    assert status_and_message(batch) == (BatchStatus.PAUSED, f"Paused by the dialler: {REASON}")
    assert set(batch.contacts.values_list("status", "attempts")) == {("queued", 0)}
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 2}


def test_a_refusal_after_the_attempt_has_ended_changes_nothing(harbour):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    contact.record_failed(outcome="no_answer")
    before = batch_snapshot(batch)

    assert not contact.record_batch_refused(reason=REASON)
    assert batch_snapshot(batch) == before


def test_a_refusal_of_a_call_that_was_recorded_changes_nothing(harbour):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "the-call", caller_id=CALLER_ID)
    before = batch_snapshot(batch)

    assert not contact.record_batch_refused(reason=REASON)
    assert batch_snapshot(batch) == before


def test_a_rejection_that_arrives_after_its_row_has_paused_the_batch_does_not_count(harbour):
    batch = harbour.batch(queued=9)
    batch.contacts.update(max_attempts=1)
    claimed = [claim_next_contact(batch) for _ in range(7)]

    for contact in reversed(claimed):
        assert contact.record_rejected(reason="Not placed: HTTP 422")

    assert set(batch.contacts.values_list("status", "attempts")) == {("queued", 0)}
    assert checked_counters(batch) == {"total_contacts": 9, "queued": 9}


@pytest.mark.parametrize(
    "late", [{"reason": "Not placed: HTTP 400"}, {"reason": "Not placed: HTTP 422", "is_about_number": True}], ids=str
)
def test_another_rejection_that_arrives_after_the_pause_counts(harbour, late):
    batch = harbour.batch(queued=9)
    claimed = [claim_next_contact(batch) for _ in range(6)]
    for contact in claimed[:5]:
        contact.record_rejected(reason="Not placed: HTTP 422")

    assert claimed[5].record_rejected(**late)

    claimed[5].refresh_from_db()
    assert (claimed[5].status, claimed[5].attempts) == (ContactStatus.QUEUED, 1)


def test_a_forbidden_call_that_arrives_after_the_pause_does_not_count(harbour):
    batch = harbour.batch(queued=3)
    accepted, *refused = [claim_next_contact(batch) for _ in range(3)]
    refused[0].record_batch_refused(reason="HTTP 403", unless_others_accepted=True)
    Call.record_placed(accepted, "the-call", caller_id=CALLER_ID)

    assert refused[1].record_batch_refused(reason="HTTP 403", unless_others_accepted=True)
    assert checked_counters(batch) == {"total_contacts": 3, "queued": 2, "in_progress": 1}


def test_the_last_contact_of_a_batch_is_given_back_and_the_batch_is_not_completed(harbour):
    batch = harbour.batch(queued=5)
    batch.contacts.update(max_attempts=1)

    for _ in range(5):
        claim_next_contact(batch).record_rejected(reason="Not placed: HTTP 422")

    assert status_and_message(batch)[0] == BatchStatus.PAUSED
    assert checked_counters(batch) == {"total_contacts": 5, "queued": 5}


# The pause


@pytest.mark.parametrize("status", [status for status in BatchStatus if status != BatchStatus.PROCESSING])
def test_the_dialler_pauses_only_a_processing_batch(harbour, status):
    batch = harbour.batch(status)
    before = batch_snapshot(batch)

    with batch.locked() as locked:
        locked.pause_as_dialler(REASON)

    assert batch_snapshot(batch) == before


def test_resuming_clears_the_diallers_reason(harbour):
    batch = harbour.batch(queued=1)
    claim_next_contact(batch).record_batch_refused(reason=REASON)

    resume(batch)

    assert status_and_message(batch) == (BatchStatus.PROCESSING, None)
    event = batch.events.latest("pk")
    assert (event.status, event.error_message, "reason" in event.pgh_context) == (BatchStatus.PROCESSING, None, False)


@pytest.mark.parametrize("message", ["Paused by support", "", None, "See: Paused by the dialler: x"], ids=repr)
def test_resuming_keeps_the_text_of_another_service(harbour, message):
    batch = harbour.batch(BatchStatus.PAUSED, queued=1)
    CallBatch.objects.update(error_message=message)

    resume(batch)

    assert status_and_message(batch) == (BatchStatus.PROCESSING, message)


def test_a_text_that_another_service_wrote_after_the_diallers_pause_is_kept(harbour):
    batch = harbour.batch(queued=1)
    claim_next_contact(batch).record_batch_refused(reason=REASON)
    CallBatch.objects.update(error_message="Call Ada about the invoice")

    resume(batch)

    assert status_and_message(batch) == (BatchStatus.PROCESSING, "Call Ada about the invoice")


def test_a_batch_that_the_dialler_has_paused_can_be_cancelled(harbour):
    batch = harbour.batch(queued=3)
    claim_next_contact(batch).record_batch_refused(reason=REASON)

    assert cancel(batch).contacts_skipped == 3
    assert status_and_message(batch) == (BatchStatus.CANCELLED, "Cancelled by user")
    assert batch.status in FINAL
