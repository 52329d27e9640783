"""The end of a call that another service placed before the switch, while something else changes its contact."""

import pytest

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CampaignContact, WebhookEvent
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support import earlier_service
from calls.tests.support.concurrency import BATCH_LOCK, BATCH_SELECT, PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import CALLER_ID, cancel, checked_counters, count, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)

# The end event has looked for the call's contact, and has not locked its batch yet.
CONTACT_FOUND = 'FROM "campaign_contacts"'


@pytest.fixture
def their_call(harbour):
    """A call of another service. Its batch has another contact, which is queued."""
    return earlier_service.place_call(harbour.batch(queued=2))


def contact_of(call):
    return CampaignContact.objects.get(call_id=call.pk)


def end_unanswered(call):
    """Return the work of a thread that applies the end of a call that was not answered."""
    body = earlier_service.end_event(call.ultravox_call_id, "unjoined", joined=False)
    return lambda: Call.record_event(WebhookEvent.from_body(call.agency, body.encode()))


def queue_again(plain, contact):
    """Record that the call failed, as the other service does."""
    plain.execute("UPDATE campaign_contacts SET status = 'queued', outcome = 'no_answer' WHERE id = %s", [contact.pk])
    plain.execute(
        "UPDATE call_batches SET in_progress = in_progress - 1, queued = queued + 1 WHERE id = %s", [contact.batch_id]
    )


# A cancel


def test_a_call_that_ends_during_a_cancel_is_counted_and_never_queued_again(their_call, without_guards):
    batch = contact_of(their_call).batch
    with PausedThread(end_unanswered(their_call), after=CONTACT_FOUND) as ending:
        assert cancel(batch).contacts_skipped == 1

    assert ending.outcome is None
    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED
    assert (contact_of(their_call).status, contact_of(their_call).outcome) == (ContactStatus.FAILED, "no_answer")
    assert checked_counters(batch) == {"total_contacts": 2, "failed": 1, "skipped": 1}


def test_a_cancel_waits_for_a_call_that_is_ending_and_skips_its_contact(their_call, without_guards):
    batch = contact_of(their_call).batch
    with PausedThread(end_unanswered(their_call), after=BATCH_LOCK):
        cancelling = PausedThread(lambda: cancel(batch))
        cancelling.start()
        waited = wait_for_lock_waiter()

    assert (cancelling.release().contacts_skipped, waited) == (2, True)
    assert checked_counters(batch) == {"total_contacts": 2, "skipped": 2}


def test_control_without_the_lock_the_contact_is_queued_in_the_cancelled_batch(
    their_call, without_guards, without_lock
):
    batch = contact_of(their_call).batch
    with PausedThread(end_unanswered(their_call), after=BATCH_SELECT):
        cancel(batch)

    assert count(batch, ContactStatus.QUEUED) == 1


# A second claim


def test_a_contact_that_the_other_service_queued_again_meanwhile_is_counted_once(their_call):
    contact = contact_of(their_call)
    with PausedThread(end_unanswered(their_call), after=CONTACT_FOUND) as ending, plain_connection() as plain:
        queue_again(plain, contact)

    assert ending.outcome is None
    assert checked_counters(contact.batch) == {"total_contacts": 2, "queued": 2}


def test_a_contact_that_was_claimed_again_meanwhile_stays_in_progress(their_call, settings):
    settings.RETRY_PAUSE = 0
    contact = contact_of(their_call)
    contact.batch.contacts.exclude(pk=contact.pk).update(do_not_call=True)
    with PausedThread(end_unanswered(their_call), after=CONTACT_FOUND) as ending, plain_connection() as plain:
        queue_again(plain, contact)
        claimed = claim_next_contact(contact.batch)
        assert Call.record_placed(claimed, "our-call", caller_id=CALLER_ID)

    assert (ending.outcome, claimed.pk) == (None, contact.pk)
    contact.refresh_from_db()
    assert (contact.status, contact.attempts) == (ContactStatus.IN_PROGRESS, 2)
    assert contact.call_id == Call.objects.get(ultravox_call_id="our-call").pk


# Another batch


def test_a_contact_that_was_moved_to_another_batch_meanwhile_is_left_to_the_next_event(harbour, their_call):
    contact, other = contact_of(their_call), harbour.batch(queued=1)
    with PausedThread(end_unanswered(their_call), after=CONTACT_FOUND) as ending, plain_connection() as plain:
        plain.execute("UPDATE campaign_contacts SET batch_id = %s WHERE id = %s", [other.pk, contact.pk])

    assert ending.outcome is None
    their_call.refresh_from_db()
    assert (their_call.contact, their_call.end_reason) == (None, "unjoined")
    assert contact_of(their_call).status == ContactStatus.IN_PROGRESS

    end_unanswered(their_call)()
    assert (contact_of(their_call).status, contact_of(their_call).batch) == (ContactStatus.QUEUED, other)


# The other service's own webhook handler


def end_as_the_other_service(contact):
    """Record the end of a call in one transaction, first the contact and then the batch. Return whether it counted."""
    with plain_connection() as plain, plain.transaction():
        ended = plain.execute(earlier_service.END_CALL, [contact.pk]).rowcount
        if ended:
            plain.execute(earlier_service.COUNT_END, [contact.batch_id])
    return bool(ended)


def test_an_end_that_the_other_service_records_first_counts_once(their_call):
    contact = contact_of(their_call)
    with plain_connection() as plain:
        # It locks the contact first and the batch second. PostgreSQL looks for a deadlock sooner in our own
        # transaction, so ours is the victim and is tried again.
        plain.execute("SET deadlock_timeout = '10s'")
        with plain.transaction():
            plain.execute(earlier_service.END_CALL, [contact.pk])
            ending = PausedThread(end_unanswered(their_call))
            ending.start()
            assert wait_for_lock_waiter()
            plain.execute(earlier_service.COUNT_END, [contact.batch_id])
        assert ending.release() is None

    contact.refresh_from_db()
    assert (contact.status, contact.outcome) == (ContactStatus.COMPLETED, "answered")
    assert checked_counters(contact.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_an_end_that_we_record_first_counts_once(their_call):
    contact = contact_of(their_call)
    with PausedThread(end_unanswered(their_call), after='UPDATE "campaign_contacts"'):
        other = PausedThread(lambda: end_as_the_other_service(contact))
        other.start()
        waited = wait_for_lock_waiter()

    assert (other.release(), waited) == (False, True)
    assert checked_counters(contact.batch) == {"total_contacts": 2, "queued": 2}
