"""Races between a cancel and the fifth rejection in a row. The second operation waits for the first."""

import pytest

from calls.dialler.claims import claim_next_contact
from calls.models import CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.concurrency import (
    BATCH_SELECT,
    BATCH_UPDATE,
    CONTACT_UPDATE,
    PausedThread,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import cancel, checked_counters

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fifth(harbour):
    """A claimed contact whose rejection completes a row. The four before it have failed; five more are queued."""
    batch = harbour.batch(queued=10)
    batch.contacts.update(max_attempts=1)
    *others, fifth = [claim_next_contact(batch) for _ in range(5)]
    for contact in others:
        contact.record_rejected(reason="the same")
    return fifth


def reject(contact):
    return contact.record_rejected(reason="the same")


def test_a_cancel_waits_for_the_contacts_that_are_given_back_and_skips_them(fifth, without_guards):
    with PausedThread(lambda: reject(fifth), after=CONTACT_UPDATE) as rejecting:
        cancelling = PausedThread(lambda: cancel(fifth.batch))
        cancelling.start()
        waited = wait_for_lock_waiter()
    result = cancelling.release()

    assert (rejecting.outcome, waited, result.contacts_skipped) == (True, True, 10)
    assert checked_counters(fifth.batch) == {"total_contacts": 10, "skipped": 10}
    assert CallBatch.objects.get().status == BatchStatus.CANCELLED


def test_no_contact_is_given_back_after_the_cancel(fifth, without_guards):
    with PausedThread(lambda: cancel(fifth.batch), after=BATCH_UPDATE) as cancelling:
        rejecting = PausedThread(lambda: reject(fifth))
        rejecting.start()
        waited = wait_for_lock_waiter()

    assert (rejecting.release(), waited, cancelling.outcome.contacts_skipped) == (True, True, 5)
    assert checked_counters(fifth.batch) == {"total_contacts": 10, "failed": 4, "skipped": 6}
    assert CallBatch.objects.get().status == BatchStatus.CANCELLED


def test_control_without_the_lock_contacts_are_given_back_after_the_cancel(fifth, without_guards, without_lock):
    with PausedThread(lambda: reject(fifth), after=BATCH_SELECT):
        cancel(fifth.batch)

    assert CallBatch.objects.get().status == BatchStatus.CANCELLED
    assert fifth.batch.contacts.dialable().exists()
