"""Contacts: how they are added to a batch, and how the result of a call is recorded."""

import pytest
from django.db import connection

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchAlreadyCancelled, BatchAlreadyCompleted
from calls.models import Call, CallBatch, CampaignContact
from calls.models.reconciliation import reconcile
from calls.statuses import FINAL, BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, batch_snapshot, cancel, checked_counters, new_contacts

pytestmark = pytest.mark.django_db

both_results = pytest.mark.parametrize(
    "record_result",
    [lambda contact: contact.record_answered(outcome="x"), lambda contact: contact.record_failed(outcome="x")],
    ids=["answered", "failed"],
)


# Adding contacts


@pytest.mark.parametrize("status", [status for status in BatchStatus if status not in FINAL])
def test_contacts_are_added_to_an_unfinished_batch(harbour, status):
    batch = harbour.batch(status, queued=2)

    batch.add_contacts(new_contacts(3))

    assert checked_counters(batch) == {"total_contacts": 5, "queued": 5}
    assert batch.contacts.filter(status=ContactStatus.PENDING).count() == 3


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(BatchStatus.CANCELLED, BatchAlreadyCancelled), (BatchStatus.COMPLETED, BatchAlreadyCompleted)],
)
def test_no_contact_is_added_to_a_finished_batch_through_a_stale_instance(harbour, status, refusal):
    batch = harbour.batch(queued=1)
    CallBatch.objects.update(status=status)
    before = batch_snapshot(batch)

    with pytest.raises(refusal):
        batch.add_contacts(new_contacts(3))

    assert batch_snapshot(batch) == before


def test_adding_no_contacts_changes_nothing(harbour):
    batch = harbour.batch(queued=1)

    batch.add_contacts([])

    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}


# Reading contacts


@pytest.mark.not_adopted
def test_claimable_contacts_are_read_oldest_first_through_an_index_without_sorting(harbour):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")

    plan = batch.contacts.claimable().oldest_first()[:1].explain()

    assert "contact_in_order" in plan
    assert "Sort" not in plan


# Recording results


def test_an_answered_call_completes_its_contact(harbour):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)

    assert contact.record_answered(outcome="answered", duration_seconds=45)

    contact.refresh_from_db()
    assert (contact.status, contact.outcome, contact.duration_seconds) == ("completed", "answered", 45)
    assert contact.completed_at is not None
    assert checked_counters(batch) == {"total_contacts": 1, "completed": 1}


def test_a_contact_that_was_not_reached_is_queued_again_while_attempts_are_left(harbour):
    batch = harbour.batch()
    harbour.contact(batch, max_attempts=2).save()
    reconcile(batch.pk, fix=True)

    assert claim_next_contact(batch).record_failed(outcome="no_answer")
    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}
    assert batch.contacts.get().completed_at is None

    assert claim_next_contact(batch).record_failed(outcome="no_answer")
    assert checked_counters(batch) == {"total_contacts": 1, "failed": 1}
    contact = batch.contacts.get()
    assert (contact.status, contact.attempts, contact.outcome) == ("failed", 2, "no_answer")
    assert contact.completed_at is not None


def test_a_call_that_fails_after_the_cancel_is_not_retried(harbour):
    batch = harbour.batch(queued=3)
    contact = claim_next_contact(batch)
    cancel(batch)
    cancelled_at = CallBatch.objects.get().completed_at

    assert contact.record_failed(outcome="no_answer")

    contact.refresh_from_db()
    assert contact.status == ContactStatus.FAILED
    assert checked_counters(batch) == {"total_contacts": 3, "failed": 1, "skipped": 2}
    batch.refresh_from_db()
    assert (batch.status, batch.completed_at) == (BatchStatus.CANCELLED, cancelled_at)


@both_results
def test_a_result_that_is_recorded_twice_counts_once(harbour, record_result):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)

    assert record_result(contact)
    before = batch_snapshot(batch)

    assert not record_result(contact)
    assert batch_snapshot(batch) == before


@both_results
def test_a_late_result_does_not_end_the_next_attempt(harbour, record_result):
    batch = harbour.batch(queued=1)
    first = claim_next_contact(batch)
    first.record_failed(outcome="no_answer")
    second = claim_next_contact(batch)

    assert second.pk == first.pk
    assert not record_result(first)
    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}
    assert record_result(second)


@both_results
def test_a_result_is_not_counted_on_a_batch_to_which_the_contact_was_moved(harbour, record_result):
    batch, other = harbour.batch(queued=1), harbour.batch()
    contact = claim_next_contact(batch)
    CampaignContact.objects.update(batch=other)
    before = batch_snapshot(other)

    assert not record_result(contact)
    assert batch_snapshot(other) == before


def test_a_claim_whose_call_was_recorded_is_neither_released_nor_rejected(harbour):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "the-call", caller_id=CALLER_ID)

    assert not contact.release_claim()
    assert not contact.record_rejected(reason="x")
    assert batch.contacts.get().status == ContactStatus.IN_PROGRESS
