"""How contacts enter a batch, are claimed, and end: each under the lock of the batch, and counted on it."""

import pytest
from django.db import connection

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchAlreadyCancelled, BatchAlreadyCompleted
from calls.models import CallBatch, CampaignContact
from calls.models.reconciliation import reconcile
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import batch_snapshot, cancel, checked_counters, new_contacts

pytestmark = pytest.mark.django_db


ENDS = [lambda contact: contact.record_answered(outcome="x"), lambda contact: contact.record_failed(outcome="x")]


def claim(batch):
    return claim_next_contact(batch)


# They enter


@pytest.mark.parametrize("status", [status for status in BatchStatus if status not in ("completed", "cancelled")])
def test_contacts_are_added_to_a_batch_that_has_not_ended(harbour, status):
    batch = harbour.batch(status, queued=2)

    batch.add_contacts(new_contacts(3))

    assert checked_counters(batch) == {"total_contacts": 5, "queued": 5}
    assert batch.contacts.filter(status=ContactStatus.PENDING).count() == 3


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(BatchStatus.CANCELLED, BatchAlreadyCancelled), (BatchStatus.COMPLETED, BatchAlreadyCompleted)],
)
def test_nobody_is_added_to_a_batch_that_has_ended_whatever_the_instance_says(harbour, status, refusal):
    batch = harbour.batch(queued=1)
    CallBatch.objects.update(status=status)
    before = batch_snapshot(batch)

    with pytest.raises(refusal):
        batch.add_contacts(new_contacts(3))

    assert batch_snapshot(batch) == before


def test_to_add_nobody_is_nothing(harbour):
    batch = harbour.batch(queued=1)

    batch.add_contacts([])

    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}


# They are claimed


def test_the_oldest_is_claimed_first_and_each_once(harbour):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(3))
    CallBatch.objects.update(status=BatchStatus.PROCESSING)

    numbers = [claim(batch).phone_number for _ in range(3)]

    assert numbers == [person.phone_number for person in new_contacts(3)]
    assert claim(batch) is None


def test_a_claim_counts_the_attempt_and_says_when(harbour):
    batch = harbour.batch(queued=2)

    contact = claim(batch)

    assert (contact.status, contact.attempts) == (ContactStatus.IN_PROGRESS, 1)
    assert contact.last_attempt_at is not None
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "in_progress": 1}


@pytest.mark.parametrize("status", ["pending", "queued", "scheduled"])
def test_whoever_waits_in_whichever_way_is_claimed(harbour, status):
    assert claim(harbour.batch(**{status: 1})) is not None


@pytest.mark.parametrize("status", [status for status in BatchStatus if status != BatchStatus.PROCESSING])
def test_nobody_is_claimed_in_a_batch_that_is_not_being_dialled(harbour, status):
    batch = harbour.batch(queued=1)
    CallBatch.objects.update(status=status)

    assert claim(batch) is None


def test_whoever_must_not_be_called_is_not_claimed(harbour):
    batch = harbour.batch()
    harbour.contact(batch, do_not_call=True).save()

    assert claim(batch) is None


def test_a_mark_that_another_service_has_left_empty_is_none(harbour):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE campaign_contacts ALTER do_not_call DROP NOT NULL, ALTER attempts DROP NOT NULL")
        cursor.execute("UPDATE campaign_contacts SET do_not_call = NULL, attempts = NULL")

    assert claim(batch).attempts == 1


@pytest.mark.own_tables
def test_it_is_found_through_an_index_in_its_order(harbour):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")

    plan = batch.contacts.claimable().oldest_first()[:1].explain()

    assert "contact_in_order" in plan
    assert "Sort" not in plan


# They end


def test_a_call_that_was_answered_completes_its_contact(harbour):
    batch = harbour.batch(queued=1)
    contact = claim(batch)

    assert contact.record_answered(outcome="answered", duration_seconds=45)

    contact.refresh_from_db()
    assert (contact.status, contact.outcome, contact.duration_seconds) == ("completed", "answered", 45)
    assert contact.completed_at is not None
    assert checked_counters(batch) == {"total_contacts": 1, "completed": 1}


def test_a_call_that_came_to_nothing_is_tried_again_while_attempts_are_left(harbour):
    batch = harbour.batch()
    harbour.contact(batch, max_attempts=2).save()
    reconcile(batch.pk, fix=True)

    assert claim(batch).record_failed(outcome="no_answer")
    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}
    assert batch.contacts.get().completed_at is None

    assert claim(batch).record_failed(outcome="no_answer")
    assert checked_counters(batch) == {"total_contacts": 1, "failed": 1}
    contact = batch.contacts.get()
    assert (contact.status, contact.attempts, contact.outcome) == ("failed", 2, "no_answer")
    assert contact.completed_at is not None


def test_a_call_that_fails_after_the_cancel_is_never_tried_again(harbour):
    batch = harbour.batch(queued=3)
    contact = claim(batch)
    cancel(batch)
    ended_at = CallBatch.objects.get().completed_at

    assert contact.record_failed(outcome="no_answer")

    contact.refresh_from_db()
    assert contact.status == ContactStatus.FAILED
    assert checked_counters(batch) == {"total_contacts": 3, "failed": 1, "skipped": 2}
    batch.refresh_from_db()
    assert (batch.status, batch.completed_at) == (BatchStatus.CANCELLED, ended_at)


@pytest.mark.parametrize("end", ENDS)
def test_an_outcome_that_arrives_twice_counts_once(harbour, end):
    batch = harbour.batch(queued=1)
    contact = claim(batch)

    assert end(contact)
    before = batch_snapshot(batch)

    assert not end(contact)
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("end", ENDS)
def test_an_outcome_that_comes_late_does_not_end_the_next_attempt(harbour, end):
    batch = harbour.batch(queued=1)
    first = claim(batch)
    first.record_failed(outcome="no_answer")
    second = claim(batch)

    assert second.pk == first.pk
    assert not end(first)
    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}
    assert end(second)


@pytest.mark.parametrize("end", ENDS)
def test_an_outcome_is_not_counted_on_a_batch_that_the_contact_has_left(harbour, end):
    batch, other = harbour.batch(queued=1), harbour.batch()
    contact = claim(batch)
    CampaignContact.objects.update(batch=other)
    before = batch_snapshot(other)

    assert not end(contact)
    assert batch_snapshot(other) == before
