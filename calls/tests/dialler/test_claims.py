"""claim_next_contact(): which contact is called next, and which contacts are not called."""

from datetime import timedelta

import pytest
from django.db import connection

from calls.dialler import claims
from calls.dialler.claims import claim_next_contact
from calls.dialler.placing import DialOutcome, place_next_call
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import backdate_attempts, checked_counters, new_contacts

pytestmark = pytest.mark.django_db


def test_contacts_are_claimed_oldest_first_and_each_one_once(harbour):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(3))
    CallBatch.objects.update(status=BatchStatus.PROCESSING)

    numbers = [claim_next_contact(batch).phone_number for _ in range(3)]

    assert numbers == [contact.phone_number for contact in new_contacts(3)]
    assert claim_next_contact(batch) is None


def test_a_claim_counts_the_attempt_and_records_its_time(harbour):
    batch = harbour.batch(queued=2)

    contact = claim_next_contact(batch)

    assert (contact.status, contact.attempts) == (ContactStatus.IN_PROGRESS, 1)
    assert contact.last_attempt_at is not None
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "in_progress": 1}


@pytest.mark.parametrize("status", ["pending", "queued", "scheduled"])
def test_a_contact_is_claimed_in_every_dialable_status(harbour, status):
    assert claim_next_contact(harbour.batch(**{status: 1})) is not None


@pytest.mark.parametrize("status", [status for status in BatchStatus if status != BatchStatus.PROCESSING])
def test_no_contact_is_claimed_unless_the_batch_is_processing(harbour, status):
    batch = harbour.batch(queued=1)
    CallBatch.objects.update(status=status)

    assert claim_next_contact(batch) is None


# Contacts that are not called


def test_a_contact_marked_do_not_call_is_not_claimed(harbour):
    batch = harbour.batch()
    harbour.contact(batch, do_not_call=True).save()

    assert claim_next_contact(batch) is None


@pytest.mark.django_db(transaction=True)
def test_contacts_marked_do_not_call_are_skipped(harbour, ultravox):
    batch = harbour.batch(queued=3)
    first = batch.contacts.oldest_first().first()
    batch.contacts.exclude(pk=first.pk).update(do_not_call=True)

    assert [place_next_call(batch), place_next_call(batch)] == [DialOutcome.PLACED, DialOutcome.NOTHING_CLAIMED]
    assert len(ultravox.asked) == 1
    skipped = batch.contacts.filter(status=ContactStatus.SKIPPED)
    assert set(skipped.values_list("outcome_notes", flat=True)) == {"Do not call"}
    assert checked_counters(batch) == {"total_contacts": 3, "in_progress": 1, "skipped": 2}


@pytest.mark.django_db(transaction=True)
def test_one_claim_skips_a_limited_number_of_contacts(harbour, ultravox, monkeypatch):
    """A cancel that waits for the batch's lock must not wait long."""
    monkeypatch.setattr(claims, "MAX_ENDED_UNCALLED", 2)
    batch = harbour.batch(queued=5)
    batch.contacts.update(do_not_call=True)

    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    assert checked_counters(batch) == {"total_contacts": 5, "queued": 3, "skipped": 2}


def test_a_contact_whose_do_not_call_and_attempts_are_null_is_claimed(harbour):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE campaign_contacts ALTER do_not_call DROP NOT NULL, ALTER attempts DROP NOT NULL")
        cursor.execute("UPDATE campaign_contacts SET do_not_call = NULL, attempts = NULL")

    assert claim_next_contact(batch).attempts == 1


@pytest.mark.django_db(transaction=True)
def test_a_contact_without_attempts_left_fails_and_is_not_called(harbour, ultravox):
    batch = harbour.batch(queued=1)
    batch.contacts.update(attempts=3)

    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    assert (ultravox.asked, batch.contacts.get().status) == ([], ContactStatus.FAILED)
    assert batch.contacts.get().completed_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_contact_is_not_called_again_before_the_retry_pause_is_over(harbour, ultravox, settings):
    settings.RETRY_PAUSE = 300
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    batch.contacts.get().record_failed(outcome="no_answer")

    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    backdate_attempts(batch, timedelta(seconds=301))
    assert place_next_call(batch) is DialOutcome.PLACED
    assert [asked.attempt[1] for asked in ultravox.asked] == [1, 2]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "record_late",
    [
        lambda stale: stale.release_claim(),
        lambda stale: stale.record_rejected(reason="x"),
        lambda stale: stale.record_failed(outcome="x"),
    ],
    ids=["released", "rejected", "failed"],
)
def test_a_late_result_of_a_released_claim_does_not_end_the_next_claim(harbour, ultravox, record_late):
    batch = harbour.batch(queued=1)
    stale = claim_next_contact(batch)
    CampaignContact.objects.get(pk=stale.pk).release_claim()
    assert place_next_call(batch) is DialOutcome.PLACED
    assert batch.contacts.get().attempts == stale.attempts

    assert not record_late(stale)
    assert batch.contacts.get().status == ContactStatus.IN_PROGRESS
    assert len(ultravox.asked) == 1
