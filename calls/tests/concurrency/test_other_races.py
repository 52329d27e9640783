"""
Races between claims, pauses, resumes, cancels and added contacts. The second operation waits for the first.

A control removes the lock, and shows that the two then interfere.
"""

import json

import pytest
from django.db.models import QuerySet

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchAlreadyCancelled, BatchNotPausable, BatchNotPaused, BatchUpdateFailed
from calls.models import Call, CallBatch, CancelResult, PauseResult, WebhookEvent
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import (
    BATCH_LOCK,
    BATCH_SELECT,
    BATCH_UPDATE,
    CONTACT_CHOSEN,
    CONTACT_CLAIMED,
    CONTACT_UPDATE,
    COUNTERS_UPDATE,
    PausedThread,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import cancel, checked_counters, count, new_contacts, pause, plain_connection, resume

pytestmark = pytest.mark.django_db(transaction=True)


def remove_status_conditions(monkeypatch):
    """For controls: no UPDATE checks that the batch still has the status that was read."""
    original = QuerySet.filter

    def without_status(self, *args, **kwargs):
        kwargs.pop("status", None)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(QuerySet, "filter", without_status)


def run_second_during_first(first, second, *, after):
    """
    Run ``second`` while ``first`` is paused after the statement ``after``.

    Return both outcomes, and whether one of them waited for a lock.
    """
    with PausedThread(first, after=after) as paused:
        other = PausedThread(second)
        other.start()
        waited = wait_for_lock_waiter()
        return paused.release(), other.release(), waited


def status_of(batch):
    return CallBatch.objects.get(pk=batch.pk).status


# A pause and a claim


def test_a_claim_during_a_pause_claims_nothing(harbour, without_guards):
    batch = harbour.batch(queued=3)

    paused, claimed, waited = run_second_during_first(
        lambda: pause(batch), lambda: claim_next_contact(batch), after=BATCH_UPDATE
    )

    assert isinstance(paused, PauseResult)
    assert (claimed, waited) == (None, True)
    assert checked_counters(batch) == {"total_contacts": 3, "queued": 3}


def test_a_pause_during_a_claim_waits_and_counts_the_call_as_in_progress(harbour, without_guards):
    batch = harbour.batch(queued=3)

    claimed, paused, waited = run_second_during_first(
        lambda: claim_next_contact(batch), lambda: pause(batch), after=CONTACT_CLAIMED
    )

    assert (claimed.status, waited) == (ContactStatus.IN_PROGRESS, True)
    # The claim was committed before the pause returned, and the pause counts it.
    assert (paused.in_progress, paused.queued) == (1, 2)


def test_control_without_the_lock_a_contact_is_claimed_after_the_pause_has_returned(
    harbour, without_guards, without_lock
):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: claim_next_contact(batch), after=BATCH_SELECT) as claiming:
        pause(batch)
        assert count(batch, ContactStatus.IN_PROGRESS) == 0
    assert claiming.outcome is not None

    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_no_contact_is_claimed_after_a_pause_that_ran_during_many_claims(harbour, without_guards):
    batch = harbour.batch(queued=100)

    def claim_until_paused():
        claimed = 0
        while claim_next_contact(batch):
            claimed += 1
        return claimed

    claimers = [PausedThread(claim_until_paused) for _ in range(4)]
    for claimer in claimers:
        claimer.start()
    in_progress = pause(batch).in_progress

    assert sum(claimer.release() for claimer in claimers) == count(batch, ContactStatus.IN_PROGRESS) == in_progress
    assert sum(checked_counters(batch).get(name, 0) for name in ("queued", "in_progress")) == 100


def test_concurrent_claims_get_different_contacts(harbour):
    batch = harbour.batch(queued=8)
    claimers = [PausedThread(lambda: claim_next_contact(batch)) for _ in range(12)]
    for claimer in claimers:
        claimer.start()

    claimed = [claimer.release() for claimer in claimers]

    assert len({contact.pk for contact in claimed if contact}) == 8
    assert claimed.count(None) == 4
    assert checked_counters(batch) == {"total_contacts": 8, "in_progress": 8}


def test_a_claim_passes_over_a_contact_that_another_service_has_locked(harbour):
    batch = harbour.batch(queued=2)
    oldest, next_one = batch.contacts.oldest_first()
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM campaign_contacts WHERE id = %s FOR UPDATE", [oldest.pk])
        claiming = PausedThread(lambda: claim_next_contact(batch))
        claiming.start()

        assert claiming.release() == next_one


def record_result(contact):
    return contact.record_answered(outcome="answered")


def record_end_event(contact):
    call = {"callId": "the-call", "joined": "2026-01-31T09:30:00Z", "ended": "2026-01-31T09:31:00Z"}
    event = {"event": "call.ended", "call": call}
    Call.record_event(WebhookEvent.from_body(contact.agency, json.dumps(event).encode()))
    return True


@pytest.mark.parametrize("end", [record_result, record_end_event])
def test_a_result_whose_transaction_is_a_deadlock_victim_is_recorded_by_the_retry(harbour, end):
    batch = harbour.batch(queued=2)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "the-call", caller_id="+12125550199")
    with PausedThread(lambda: end(contact), after=BATCH_LOCK) as finishing, plain_connection() as plain:
        # PostgreSQL looks for a deadlock sooner in our own transaction, so our transaction is the victim.
        plain.execute("SET deadlock_timeout = '10s'")
        with plain.transaction():
            plain.execute("UPDATE campaign_contacts SET outcome = 'x' WHERE id = %s", [contact.pk])
            finishing.let_go()
            assert wait_for_lock_waiter()
            plain.execute("UPDATE call_batches SET updated_at = now() WHERE id = %s", [batch.pk])
        assert finishing.release() is True
    # It locked the batch twice.
    assert finishing.attempts == 2
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_control_without_the_lock_two_claims_get_the_same_contact(harbour, without_lock):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CHOSEN) as first:
        second = claim_next_contact(batch)

    assert first.outcome == second


# A pause or a resume, and a cancel


def test_a_pause_during_a_cancel_is_refused(harbour, without_guards):
    batch = harbour.batch(queued=3)

    cancelled, paused, waited = run_second_during_first(lambda: cancel(batch), lambda: pause(batch), after=BATCH_UPDATE)

    assert isinstance(cancelled, CancelResult)
    assert isinstance(paused, BatchNotPausable)
    assert waited
    assert paused.status == status_of(batch) == BatchStatus.CANCELLED


def test_a_cancel_during_a_pause_cancels_the_paused_batch(harbour, without_guards):
    batch = harbour.batch(queued=3)

    paused, cancelled, waited = run_second_during_first(lambda: pause(batch), lambda: cancel(batch), after=BATCH_UPDATE)

    assert isinstance(paused, PauseResult)
    assert (cancelled.contacts_skipped, waited) == (3, True)
    assert status_of(batch) == BatchStatus.CANCELLED


def test_control_without_the_lock_and_the_status_condition_a_pause_revives_a_cancelled_batch(
    harbour, without_guards, without_lock, monkeypatch
):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: pause(batch), after=BATCH_SELECT) as pausing:
        cancel(batch)
        remove_status_conditions(monkeypatch)
    assert isinstance(pausing.outcome, PauseResult)

    assert status_of(batch) == BatchStatus.PAUSED


def test_without_the_lock_the_status_condition_still_protects_a_cancelled_batch(harbour, without_guards, without_lock):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: pause(batch), after=BATCH_SELECT) as pausing:
        cancel(batch)

    assert isinstance(pausing.outcome, BatchUpdateFailed)
    assert status_of(batch) == BatchStatus.CANCELLED


def test_a_resume_during_a_cancel_is_refused(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    cancelled, resumed, waited = run_second_during_first(
        lambda: cancel(batch), lambda: resume(batch), after=BATCH_UPDATE
    )

    assert isinstance(cancelled, CancelResult)
    assert isinstance(resumed, BatchNotPaused)
    assert waited
    assert status_of(batch) == BatchStatus.CANCELLED
    assert claim_next_contact(batch) is None


def test_a_cancel_during_a_resume_cancels_the_resumed_batch(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    _, cancelled, waited = run_second_during_first(lambda: resume(batch), lambda: cancel(batch), after=BATCH_UPDATE)

    assert (cancelled.contacts_skipped, waited) == (3, True)
    assert status_of(batch) == BatchStatus.CANCELLED


def test_control_without_the_lock_and_the_status_condition_a_resume_revives_a_cancelled_batch(
    harbour, without_guards, without_lock, monkeypatch
):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)
    with PausedThread(lambda: resume(batch), after=BATCH_SELECT) as resuming:
        cancel(batch)
        remove_status_conditions(monkeypatch)
    assert isinstance(resuming.outcome, PauseResult)

    assert status_of(batch) == BatchStatus.PROCESSING


def test_of_two_concurrent_pauses_the_second_is_refused(harbour):
    batch = harbour.batch(queued=3)

    first, second, _ = run_second_during_first(lambda: pause(batch), lambda: pause(batch), after=BATCH_SELECT)

    assert isinstance(first, PauseResult)
    assert isinstance(second, BatchNotPausable)
    assert batch.events.filter(status="paused").count() == 1


# Added contacts and a cancel


def test_contacts_added_during_a_cancel_are_refused(harbour, without_guards):
    batch = harbour.batch(queued=3)

    cancelled, added, waited = run_second_during_first(
        lambda: cancel(batch), lambda: batch.add_contacts(new_contacts(5)), after=CONTACT_UPDATE
    )

    assert (cancelled.contacts_skipped, waited) == (3, True)
    assert isinstance(added, BatchAlreadyCancelled)
    assert checked_counters(batch) == {"total_contacts": 3, "skipped": 3}


def test_contacts_added_before_a_cancel_are_skipped(harbour, without_guards):
    batch = harbour.batch(queued=3)

    added, cancelled, waited = run_second_during_first(
        lambda: batch.add_contacts(new_contacts(5)), lambda: cancel(batch), after=COUNTERS_UPDATE
    )

    assert added is None
    assert (cancelled.contacts_skipped, waited) == (8, True)
    assert checked_counters(batch) == {"total_contacts": 8, "skipped": 8}


def test_control_without_the_lock_added_contacts_stay_pending_in_the_cancelled_batch(
    harbour, without_guards, without_lock
):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: batch.add_contacts(new_contacts(5)), after=BATCH_SELECT):
        assert cancel(batch).contacts_skipped == 3

    assert count(batch, ContactStatus.PENDING) == 5


def test_control_without_the_status_check_under_the_lock_added_contacts_stay_pending(
    harbour, without_guards, monkeypatch
):
    batch = harbour.batch(queued=3)
    monkeypatch.setattr(CallBatch, "_refuse_if_ended", lambda self: None)

    run_second_during_first(lambda: cancel(batch), lambda: batch.add_contacts(new_contacts(5)), after=CONTACT_UPDATE)

    assert count(batch, ContactStatus.PENDING) == 5


# A result and a cancel


def test_a_call_that_fails_during_a_cancel_is_not_retried(harbour, without_guards):
    batch = harbour.batch(queued=3)
    contact = claim_next_contact(batch)

    cancelled, failed, waited = run_second_during_first(
        lambda: cancel(batch), lambda: contact.record_failed(outcome="no_answer"), after=CONTACT_UPDATE
    )

    assert (cancelled.contacts_skipped, failed, waited) == (2, True, True)
    assert checked_counters(batch) == {"total_contacts": 3, "failed": 1, "skipped": 2}


def test_control_without_the_lock_the_failed_contact_is_queued_in_the_cancelled_batch(
    harbour, without_guards, without_lock
):
    batch = harbour.batch(queued=3)
    contact = claim_next_contact(batch)
    with PausedThread(lambda: contact.record_failed(outcome="no_answer"), after=BATCH_SELECT):
        cancel(batch)

    assert count(batch, ContactStatus.QUEUED) == 1
