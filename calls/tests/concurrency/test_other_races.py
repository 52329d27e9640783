"""
Whoever races with a pause, a resume or an added contact: one after the other, as if they had come alone. Each time a
control shows that it is the lock that makes it so.
"""

import json

import pytest
from django.db.models import QuerySet

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchAlreadyCancelled, BatchNotPausable, BatchNotPaused, BatchUpdateFailed
from calls.models import Call, CallBatch, CancelResult, PauseResult, WebhookEvent
from calls.models import batch as batch_module
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import CLAIMED, PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import cancel, checked_counters, count, new_contacts, pause, plain_connection, resume

pytestmark = pytest.mark.django_db(transaction=True)

LOCKED = 'FOR UPDATE OF "call_batches"'
READ = 'FROM "call_batches"'
WRITTEN = 'UPDATE "call_batches"'
FOUND = '"campaign_contacts"."phone_number"'


def writing_whatever_the_status_is(monkeypatch):
    """A control: from here on no UPDATE asks whether the batch still has the status that was read."""
    everywhere = QuerySet.filter

    def without_status(self, *args, **kwargs):
        kwargs.pop("status", None)
        return everywhere(self, *args, **kwargs)

    monkeypatch.setattr(QuerySet, "filter", without_status)


def claim(batch):
    return claim_next_contact(batch)


def one_while_the_other(first, second, *, after):
    """The first has come as far as the statement ``after`` when the second comes: both outcomes, and if it waited."""
    with PausedThread(first, after=after) as one:
        two = PausedThread(second)
        two.start()
        waited = wait_for_lock_waiter()
        return one.release(), two.release(), waited


def status_of(batch):
    return CallBatch.objects.get(pk=batch.pk).status


# A pause and a claim


def test_a_claim_that_comes_during_a_pause_claims_nobody(harbour, without_guards):
    batch = harbour.batch(queued=3)

    paused, claimed, waited = one_while_the_other(lambda: pause(batch), lambda: claim(batch), after=WRITTEN)

    assert isinstance(paused, PauseResult)
    assert (claimed, waited) == (None, True)
    assert checked_counters(batch) == {"total_contacts": 3, "queued": 3}


def test_a_pause_that_comes_during_a_claim_lets_it_be(harbour, without_guards):
    batch = harbour.batch(queued=3)

    claimed, paused, waited = one_while_the_other(lambda: claim(batch), lambda: pause(batch), after=CLAIMED)

    assert (claimed.status, waited) == (ContactStatus.IN_PROGRESS, True)
    # It was committed before the pause answered, and the pause says so.
    assert (paused.in_progress, paused.queued) == (1, 2)


def test_control_without_the_lock_somebody_is_claimed_after_the_pause_has_answered(
    harbour, without_guards, without_lock
):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: claim(batch), after=READ) as claiming:
        pause(batch)
        assert count(batch, ContactStatus.IN_PROGRESS) == 0
    assert claiming.outcome is not None

    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_many_who_claim_and_pause_at_once_leave_nobody_claimed_after_the_answer(harbour, without_guards):
    batch = harbour.batch(queued=100)

    def claim_until_paused():
        claimed = 0
        while claim(batch):
            claimed += 1
        return claimed

    claimers = [PausedThread(claim_until_paused) for _ in range(4)]
    for claimer in claimers:
        claimer.start()
    in_progress = pause(batch).in_progress

    assert sum(claimer.release() for claimer in claimers) == count(batch, ContactStatus.IN_PROGRESS) == in_progress
    assert sum(checked_counters(batch).get(name, 0) for name in ("queued", "in_progress")) == 100


def test_of_many_claimers_each_gets_somebody_else(harbour):
    batch = harbour.batch(queued=8)
    claimers = [PausedThread(lambda: claim(batch)) for _ in range(12)]
    for claimer in claimers:
        claimer.start()

    claimed = [claimer.release() for claimer in claimers]

    assert len({contact.pk for contact in claimed if contact}) == 8
    assert claimed.count(None) == 4
    assert checked_counters(batch) == {"total_contacts": 8, "in_progress": 8}


def test_a_contact_that_another_service_has_locked_is_passed_over_and_not_waited_for(harbour):
    batch = harbour.batch(queued=2)
    oldest, next_one = batch.contacts.oldest_first()
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM campaign_contacts WHERE id = %s FOR UPDATE", [oldest.pk])
        claiming = PausedThread(lambda: claim(batch))
        claiming.start()

        assert claiming.release() == next_one


def finish(contact):
    return contact.record_answered(outcome="answered")


def hear_that_it_has_ended(contact):
    call = {"callId": "the-call", "joined": "2026-01-31T09:30:00Z", "ended": "2026-01-31T09:31:00Z"}
    event = {"event": "call.ended", "call": call}
    Call.record_event(WebhookEvent.from_body(contact.agency, json.dumps(event).encode()))
    return True


# Whoever hears of a call takes the batch's lock twice each time.
@pytest.mark.parametrize(("end", "locks"), [(finish, 2), (hear_that_it_has_ended, 4)])
def test_an_outcome_whose_record_falls_victim_to_a_deadlock_is_recorded_the_second_time(harbour, end, locks):
    batch = harbour.batch(queued=2)
    contact = claim(batch)
    Call.record_placed(contact, "the-call", caller_id="+12125550199")
    with PausedThread(lambda: end(contact), after=LOCKED) as finishing, plain_connection() as plain:
        # The other service is patient, so that it is our own transaction which is the victim.
        plain.execute("SET deadlock_timeout = '10s'")
        with plain.transaction():
            plain.execute("UPDATE campaign_contacts SET outcome = 'x' WHERE id = %s", [contact.pk])
            finishing.let_go()
            assert wait_for_lock_waiter()
            plain.execute("UPDATE call_batches SET updated_at = now() WHERE id = %s", [batch.pk])
        assert finishing.release() is True
    assert finishing.attempts == locks
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_control_without_the_lock_two_claim_the_same_contact(harbour, without_lock):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: claim(batch), after=FOUND) as first:
        second = claim(batch)

    assert first.outcome == second


# A pause or a resume, and a cancel


def test_a_pause_that_comes_during_a_cancel_is_refused(harbour, without_guards):
    batch = harbour.batch(queued=3)

    cancelled, paused, waited = one_while_the_other(lambda: cancel(batch), lambda: pause(batch), after=WRITTEN)

    assert isinstance(cancelled, CancelResult)
    assert isinstance(paused, BatchNotPausable)
    assert waited
    assert paused.status == status_of(batch) == BatchStatus.CANCELLED


def test_a_cancel_that_comes_during_a_pause_cancels_what_is_paused(harbour, without_guards):
    batch = harbour.batch(queued=3)

    paused, cancelled, waited = one_while_the_other(lambda: pause(batch), lambda: cancel(batch), after=WRITTEN)

    assert isinstance(paused, PauseResult)
    assert (cancelled.contacts_skipped, waited) == (3, True)
    assert status_of(batch) == BatchStatus.CANCELLED


def test_control_without_lock_and_guard_in_the_update_a_pause_revives_a_cancelled_batch(
    harbour, without_guards, without_lock, monkeypatch
):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: pause(batch), after=READ) as pausing:
        cancel(batch)
        writing_whatever_the_status_is(monkeypatch)
    assert isinstance(pausing.outcome, PauseResult)

    assert status_of(batch) == BatchStatus.PAUSED


def test_without_the_lock_the_guard_in_the_update_still_keeps_a_cancelled_batch(harbour, without_guards, without_lock):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: pause(batch), after=READ) as pausing:
        cancel(batch)

    assert isinstance(pausing.outcome, BatchUpdateFailed)
    assert status_of(batch) == BatchStatus.CANCELLED


def test_a_resume_that_comes_during_a_cancel_is_refused(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    cancelled, resumed, waited = one_while_the_other(lambda: cancel(batch), lambda: resume(batch), after=WRITTEN)

    assert isinstance(cancelled, CancelResult)
    assert isinstance(resumed, BatchNotPaused)
    assert waited
    assert status_of(batch) == BatchStatus.CANCELLED
    assert claim(batch) is None


def test_a_cancel_that_comes_during_a_resume_cancels_what_is_resumed(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    _, cancelled, waited = one_while_the_other(lambda: resume(batch), lambda: cancel(batch), after=WRITTEN)

    assert (cancelled.contacts_skipped, waited) == (3, True)
    assert status_of(batch) == BatchStatus.CANCELLED


def test_control_without_lock_and_guard_in_the_update_a_resume_revives_a_cancelled_batch(
    harbour, without_guards, without_lock, monkeypatch
):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)
    with PausedThread(lambda: resume(batch), after=READ) as resuming:
        cancel(batch)
        writing_whatever_the_status_is(monkeypatch)
    assert isinstance(resuming.outcome, PauseResult)

    assert status_of(batch) == BatchStatus.PROCESSING


def test_two_pauses_at_once_one_is_told_that_it_came_second(harbour):
    batch = harbour.batch(queued=3)

    first, second, _ = one_while_the_other(lambda: pause(batch), lambda: pause(batch), after=READ)

    assert isinstance(first, PauseResult)
    assert isinstance(second, BatchNotPausable)
    assert batch.events.filter(status="paused").count() == 1


# Added contacts and a cancel


def test_contacts_that_are_added_during_a_cancel_are_refused(harbour, without_guards):
    batch = harbour.batch(queued=3)

    cancelled, added, waited = one_while_the_other(
        lambda: cancel(batch), lambda: batch.add_contacts(new_contacts(5)), after=CLAIMED
    )

    assert (cancelled.contacts_skipped, waited) == (3, True)
    assert isinstance(added, BatchAlreadyCancelled)
    assert checked_counters(batch) == {"total_contacts": 3, "skipped": 3}


def test_contacts_that_were_added_before_a_cancel_are_skipped_by_it(harbour, without_guards):
    batch = harbour.batch(queued=3)

    added, cancelled, waited = one_while_the_other(
        lambda: batch.add_contacts(new_contacts(5)), lambda: cancel(batch), after=WRITTEN
    )

    assert added is None
    assert (cancelled.contacts_skipped, waited) == (8, True)
    assert checked_counters(batch) == {"total_contacts": 8, "skipped": 8}


def test_control_without_the_lock_they_wait_on_in_the_cancelled_batch(harbour, without_guards, without_lock):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: batch.add_contacts(new_contacts(5)), after=READ):
        assert cancel(batch).contacts_skipped == 3

    assert count(batch, ContactStatus.PENDING) == 5


def test_control_without_reading_the_status_under_the_lock_they_wait_on_as_well(harbour, without_guards, monkeypatch):
    batch = harbour.batch(queued=3)
    monkeypatch.setattr(batch_module.CallBatch, "_refuse_if_ended", lambda self: None)

    one_while_the_other(lambda: cancel(batch), lambda: batch.add_contacts(new_contacts(5)), after=CLAIMED)

    assert count(batch, ContactStatus.PENDING) == 5


# An outcome and a cancel


def test_a_call_that_fails_during_a_cancel_is_not_tried_again(harbour, without_guards):
    batch = harbour.batch(queued=3)
    contact = claim(batch)

    cancelled, failed, waited = one_while_the_other(
        lambda: cancel(batch), lambda: contact.record_failed(outcome="no_answer"), after=CLAIMED
    )

    assert (cancelled.contacts_skipped, failed, waited) == (2, True, True)
    assert checked_counters(batch) == {"total_contacts": 3, "failed": 1, "skipped": 2}


def test_control_without_the_lock_it_waits_on_in_the_cancelled_batch(harbour, without_guards, without_lock):
    batch = harbour.batch(queued=3)
    contact = claim(batch)
    with PausedThread(lambda: contact.record_failed(outcome="no_answer"), after=READ):
        cancel(batch)

    assert count(batch, ContactStatus.QUEUED) == 1
