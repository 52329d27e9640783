"""
Races with a replacement of a cancelled batch. A batch is replaced once, and only after its cancel was committed.

A replacement locks the cancelled batch's id but not its row, so that its last calls in progress can end meanwhile. The
controls remove this lock, or lock the batch's row instead.
"""

import time

import pytest

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchAlreadyReplaced, BatchCreateFailed, BatchNotCancelled, BatchUpdateFailed
from calls.models import CallBatch, CampaignContact, CreateResult
from calls.models import batch as batch_module
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.agency_verbs import replace
from calls.tests.support.concurrency import (
    BATCH_UPDATE,
    CLAIM_BY_SQL,
    CONTACT_UPDATE,
    OtherServiceThread,
    PausedThread,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import (
    batch_snapshot,
    cancel,
    checked_counters,
    count,
    new_contacts,
    plain_connection,
)

pytestmark = pytest.mark.django_db(transaction=True)

BATCH_INSERT = 'INSERT INTO "call_batches"'
CONTACTS_COPIED = "INSERT INTO campaign_contacts"


def numbers(contacts):
    """Return the numbers of contacts in their order."""
    return list(contacts.oldest_first().values_list("phone_number", flat=True))


@pytest.fixture
def cancelled(harbour):
    """A cancelled batch with three skipped contacts."""
    batch = harbour.batch(queued=3)
    cancel(batch)
    return batch


# Another replacement


def replace_twice_at_once(batch):
    """Return the outcomes of two replacements, of which the first has inserted its batch but is not committed."""
    with PausedThread(lambda: replace(batch), after=BATCH_INSERT) as first:
        second = PausedThread(lambda: replace(batch))
        second.start()
        assert wait_for_lock_waiter()
    return first.outcome, second.release()


def test_of_two_concurrent_replacements_the_second_names_the_batch_of_the_first(cancelled):
    first, second = replace_twice_at_once(cancelled)

    assert isinstance(first, CreateResult)
    assert isinstance(second, BatchAlreadyReplaced)
    assert second.batch_id == first.batch.pk
    assert CallBatch.objects.get(replaces=cancelled.pk) == first.batch
    assert checked_counters(first.batch) == {"total_contacts": 3, "queued": 3}
    assert CallBatch.objects.count() == 2


def test_control_without_the_lock_the_second_replacement_does_not_name_the_first(cancelled, monkeypatch):
    monkeypatch.setattr(batch_module, "lock_name", lambda name: None)

    first, second = replace_twice_at_once(cancelled)

    # The unique constraint still keeps the batch from being replaced twice.
    assert isinstance(first, CreateResult)
    assert isinstance(second, BatchCreateFailed)
    assert CallBatch.objects.count() == 2


def test_a_second_replacement_waits_for_the_first_for_longer_than_for_any_other_lock(cancelled, short_lock_timeout):
    with PausedThread(lambda: replace(cancelled), after=CONTACTS_COPIED) as first:
        second = PausedThread(lambda: replace(cancelled))
        second.start()
        assert wait_for_lock_waiter()
        time.sleep(0.5)

    refused = second.release()
    assert isinstance(refused, BatchAlreadyReplaced)
    assert refused.batch_id == first.outcome.batch.pk


def test_many_concurrent_replacements_create_one_batch(cancelled):
    threads = [PausedThread(lambda: replace(cancelled)) for _ in range(8)]
    for thread in threads:
        thread.start()
    outcomes = [thread.release() for thread in threads]

    (created,) = [outcome.batch for outcome in outcomes if isinstance(outcome, CreateResult)]
    refused = [outcome.batch_id for outcome in outcomes if isinstance(outcome, BatchAlreadyReplaced)]
    assert refused == [created.pk] * 7
    assert CampaignContact.objects.filter(batch=created).count() == 3


def test_a_replacement_that_waited_for_one_that_failed_succeeds(cancelled):
    with PausedThread(lambda: replace(cancelled), after=CONTACTS_COPIED) as first:
        second = PausedThread(lambda: replace(cancelled))
        second.start()
        assert wait_for_lock_waiter()
        with plain_connection() as plain:
            sql = (
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE %s AND pid <> pg_backend_pid()"
            )
            assert plain.execute(sql, [f"%{CONTACTS_COPIED}%"]).fetchall() == [(True,)]

    assert isinstance(first.outcome, BatchCreateFailed)
    assert isinstance(second.release(), CreateResult)
    assert CallBatch.objects.filter(replaces=cancelled.pk).count() == 1


def test_replacements_of_different_batches_do_not_wait_for_each_other(harbour, cancelled, short_lock_timeout):
    other = harbour.batch(queued=1)
    cancel(other)

    with PausedThread(lambda: replace(cancelled), after=CONTACTS_COPIED) as first:
        assert isinstance(replace(other), CreateResult)

    assert isinstance(first.outcome, CreateResult)


def test_a_cancelled_replacement_can_be_replaced_while_the_first_batch_still_cannot_be_replaced_again(cancelled):
    second = replace(cancelled).batch
    cancel(second)

    with PausedThread(lambda: replace(second), after=CONTACTS_COPIED) as replacing, pytest.raises(BatchAlreadyReplaced):
        replace(cancelled)

    assert numbers(replacing.outcome.batch.contacts) == numbers(cancelled.contacts)


# A cancel


@pytest.mark.parametrize("after", [CONTACT_UPDATE, BATCH_UPDATE])
def test_a_cancel_that_is_not_committed_cannot_be_replaced_and_afterwards_all_its_contacts_are_copied(
    harbour, short_lock_timeout, after
):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: cancel(batch), after=after) as cancelling:
        with pytest.raises(BatchNotCancelled) as refusal:
            replace(batch)
        assert refusal.value.status == BatchStatus.PROCESSING

    assert cancelling.outcome.contacts_skipped == 3
    assert numbers(replace(batch).batch.contacts) == numbers(batch.contacts)
    assert CallBatch.objects.count() == 2


def test_contacts_that_were_added_before_the_cancel_are_copied(harbour):
    batch = harbour.batch(queued=3)
    batch.add_contacts(new_contacts(2))

    assert cancel(batch).contacts_skipped == 5
    assert numbers(replace(batch).batch.contacts) == numbers(batch.contacts)


# The last calls of the cancelled batch


@pytest.fixture
def cancelled_with_call(harbour):
    """A cancelled batch with two skipped contacts, and its contact whose call is still in progress."""
    batch = harbour.batch(queued=3)
    contact = claim_next_contact(batch)
    cancel(batch)
    return batch, contact


ENDS = {
    "is answered": (lambda contact: contact.record_answered(outcome="answered"), ContactStatus.COMPLETED),
    "fails": (lambda contact: contact.record_failed(outcome="no_answer"), ContactStatus.FAILED),
    "is not placed": (lambda contact: contact.release_claim(), ContactStatus.SKIPPED),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_call_of_the_cancelled_batch_ends_during_the_replacement_and_is_not_copied(
    cancelled_with_call, short_lock_timeout, end
):
    batch, contact = cancelled_with_call
    record, status = ENDS[end]

    with PausedThread(lambda: replace(batch), after=CONTACTS_COPIED) as replacing:
        assert record(contact) is True

    contact.refresh_from_db()
    assert contact.status == status
    copied = numbers(replacing.outcome.batch.contacts)
    assert len(copied) == 2
    assert contact.phone_number not in copied


def test_control_with_a_lock_of_the_batch_its_last_call_waits_for_the_replacement(
    cancelled_with_call, short_lock_timeout, monkeypatch
):
    batch, contact = cancelled_with_call
    monkeypatch.setattr(batch_module, "lock_name", lambda name: CallBatch.objects.select_for_update().get(pk=batch.pk))

    with PausedThread(lambda: replace(batch), after=CONTACTS_COPIED), pytest.raises(BatchUpdateFailed):
        contact.record_answered(outcome="answered")


@pytest.mark.parametrize("end", ["is answered", "fails"])
def test_a_call_that_ends_after_the_cancel_is_not_copied_by_a_later_replacement(cancelled_with_call, end):
    batch, contact = cancelled_with_call
    record, _ = ENDS[end]
    record(contact)

    copied = numbers(replace(batch).batch.contacts)

    assert len(copied) == 2
    assert contact.phone_number not in copied


def test_a_number_whose_call_in_the_cancelled_batch_is_in_progress_is_not_called_by_the_replacement(
    harbour, cancelled_with_call
):
    batch, contact = cancelled_with_call
    batch.contacts.filter(status=ContactStatus.SKIPPED).update(phone_number=contact.phone_number)
    replacement = replace(batch).batch
    CallBatch.objects.filter(pk=replacement.pk).update(status=BatchStatus.PROCESSING)

    assert claim_next_contact(replacement) is None
    contact.record_answered(outcome="answered")
    assert claim_next_contact(replacement)


# Another service


def test_no_contact_of_the_cancelled_batch_is_claimed_during_its_replacement(cancelled):
    contact = cancelled.contacts.first()

    with PausedThread(lambda: replace(cancelled), after=CONTACTS_COPIED) as replacing:
        assert OtherServiceThread((CLAIM_BY_SQL, [contact.pk])).start().result() == "23514"

    assert count(replacing.outcome.batch, ContactStatus.PENDING) == 3
    assert count(cancelled, ContactStatus.SKIPPED) == 3


def test_a_lock_on_the_cancelled_batch_does_not_delay_its_replacement(cancelled, short_lock_timeout):
    before = batch_snapshot(cancelled)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM call_batches WHERE id = %s FOR UPDATE", [cancelled.pk])
        plain.execute("SELECT 1 FROM campaign_contacts WHERE batch_id = %s FOR UPDATE", [cancelled.pk])
        assert isinstance(replace(cancelled), CreateResult)

    assert batch_snapshot(cancelled) == before
