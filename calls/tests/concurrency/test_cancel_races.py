"""
Races with a cancel. The promise of a cancel holds in each of them.

A control removes the lock, or the guard, that protects the promise, and shows that the promise is then broken.
"""

import pytest

from calls.database import transactions as db
from calls.exceptions import BatchAlreadyCancelled, BatchUpdateFailed
from calls.models import CallBatch, CampaignContact, CancelResult, locking
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import DIALABLE, BatchStatus, ContactStatus
from calls.tests.support.concurrency import (
    ADD_CONTACT_BY_SQL,
    BATCH_LOCK,
    BATCH_SELECT,
    CLAIM_AND_COUNT_BY_SQL,
    CLAIM_BY_SQL,
    CONTACT_UPDATE,
    OtherServiceThread,
    PausedThread,
    cancel_during_write,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import cancel, count, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)

UNFINISHED = (*DIALABLE, ContactStatus.IN_PROGRESS)

RETRY_BY_SQL = "UPDATE campaign_contacts SET status = 'queued' WHERE id = %s"
MOVE_BY_SQL = "UPDATE campaign_contacts SET batch_id = %s WHERE id = %s"
LOCK_AND_CLAIM_BY_SQL = """
    UPDATE campaign_contacts SET status = 'in_progress' WHERE id = (
        SELECT c.id FROM campaign_contacts c JOIN (
            SELECT id, status FROM call_batches WHERE id = %s FOR UPDATE
        ) b ON b.id = c.batch_id AND b.status = 'processing'
        WHERE c.status = 'queued' LIMIT 1
    )
"""
PAUSE_IF_PROCESSING_BY_SQL = "UPDATE call_batches SET status = 'paused' WHERE id = %s AND status = 'processing'"
PAUSE_BY_SQL = "UPDATE call_batches SET status = 'paused' WHERE id = %s"


@pytest.fixture
def with_weaker_lock(monkeypatch):
    """For controls: cancel locks the batch FOR NO KEY UPDATE, which does not stop an INSERT that references it."""
    monkeypatch.setattr(locking, "LOCK", "FOR NO KEY UPDATE")


def count_unfinished(batch):
    """Count the contacts that are dialable or in progress."""
    return count(batch, *UNFINISHED)


def write_during_cancel(batch, statement, *, waits=(True,)):
    """
    Run another service's statement while a cancel has skipped the contacts but not committed.

    Assert that the cancel succeeds. The statement must wait for it if ``waits`` is ``(True,)`` and must not wait if it
    is ``(False,)``; with both values it may do either. Return the SQLSTATE of the statement's error, or None.
    """
    with PausedThread(lambda: cancel(batch), after=CONTACT_UPDATE) as cancelling:
        writing = OtherServiceThread(statement).start()
        assert wait_for_lock_waiter(writing.pid) in waits
        assert isinstance(cancelling.release(), CancelResult)
    return writing.result()


# Another cancel


def run_two_cancels(batch):
    with PausedThread(lambda: cancel(batch), after=BATCH_SELECT) as first:
        second = PausedThread(lambda: cancel(batch))
        second.start()
        wait_for_lock_waiter()
        outcomes = [first.release(), second.release()]
    return sorted(type(outcome).__name__ for outcome in outcomes)


def test_of_two_concurrent_cancels_one_succeeds_and_the_other_is_refused(harbour):
    batch = harbour.batch(queued=3)

    assert run_two_cancels(batch) == ["BatchAlreadyCancelled", "CancelResult"]
    assert batch.events.filter(status="cancelled").count() == 1
    batch.refresh_from_db()
    assert (batch.skipped, count(batch, ContactStatus.SKIPPED)) == (3, 3)


def test_control_without_the_lock_the_second_cancel_is_not_refused(harbour, without_lock):
    assert run_two_cancels(harbour.batch(queued=3)) != ["BatchAlreadyCancelled", "CancelResult"]


def test_many_concurrent_cancels_skip_each_contact_once(harbour):
    batch = harbour.batch(queued=50)
    threads = [PausedThread(lambda: cancel(batch)) for _ in range(8)]
    for thread in threads:
        thread.start()

    outcomes = [thread.release() for thread in threads]

    assert [outcome.contacts_skipped for outcome in outcomes if isinstance(outcome, CancelResult)] == [50]
    assert sum(isinstance(outcome, BatchAlreadyCancelled) for outcome in outcomes) == 7
    assert batch.events.filter(status="cancelled").count() == 1


# A claim


def test_a_contact_claimed_before_cancel_could_skip_it_stays_in_progress(harbour):
    batch = harbour.batch(queued=3)
    contact = batch.contacts.first()

    assert cancel_during_write(batch, CLAIM_BY_SQL, [contact.pk]).contacts_skipped == 2
    contact.refresh_from_db()
    assert contact.status == ContactStatus.IN_PROGRESS


def test_control_with_the_status_checked_beforehand_cancel_overwrites_the_claim(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    contact = batch.contacts.first()
    waiting = list(batch.contacts.values_list("pk", flat=True))
    monkeypatch.setattr(CampaignContactQuerySet, "dialable", lambda self: self.filter(pk__in=waiting))

    cancel_during_write(batch, CLAIM_BY_SQL, [contact.pk])

    contact.refresh_from_db()
    assert contact.status == ContactStatus.SKIPPED


def test_a_claim_that_locks_the_batch_before_cancel_succeeds(harbour):
    batch = harbour.batch(queued=3)

    assert cancel_during_write(batch, LOCK_AND_CLAIM_BY_SQL, [batch.pk]).contacts_skipped == 2
    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_claim_that_locks_the_batch_after_cancel_claims_nothing(harbour):
    batch = harbour.batch(queued=3)

    assert write_during_cancel(batch, (LOCK_AND_CLAIM_BY_SQL, [batch.pk])) is None
    assert count_unfinished(batch) == 0


def test_control_without_the_lock_the_claim_and_the_cancel_deadlock(harbour, without_lock):
    batch = harbour.batch(queued=3)

    assert write_during_cancel(batch, (LOCK_AND_CLAIM_BY_SQL, [batch.pk])) == "40P01"


def test_a_claim_does_not_wait_for_a_cancel_that_has_only_locked_the_batch(harbour):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: cancel(batch), after=BATCH_SELECT) as cancelling:
        claiming = OtherServiceThread((CLAIM_BY_SQL, [batch.contacts.first().pk])).start()
        assert claiming.result() is None

    assert cancelling.release().contacts_skipped == 2
    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_claim_that_waited_for_cancel_is_refused(harbour):
    batch = harbour.batch(queued=3)

    assert write_during_cancel(batch, (CLAIM_BY_SQL, [batch.contacts.first().pk])) == "23514"
    assert count_unfinished(batch) == 0


def test_control_without_the_guards_a_contact_is_claimed_after_the_answer(harbour, without_guards):
    batch = harbour.batch(queued=3)

    assert write_during_cancel(batch, (CLAIM_BY_SQL, [batch.contacts.first().pk])) is None
    assert count_unfinished(batch) == 1


# A second claim of a contact that is in progress, by a dialler that read its list before the cancel


def attempts_of(contact_id):
    return CampaignContact.objects.get(pk=contact_id).attempts


def record_result(contact_id):
    return CampaignContact.objects.get(pk=contact_id).record_answered(outcome="answered")


@pytest.fixture
def claimed_twice(harbour):
    """A batch, and a contact that two diallers found in their lists. One of them has claimed it."""
    batch = harbour.batch(queued=3)
    contact = batch.contacts.first()
    with plain_connection() as plain:
        plain.execute(CLAIM_AND_COUNT_BY_SQL, [contact.pk])
    return batch, contact.pk


def test_a_second_claim_after_the_answer_is_refused(claimed_twice):
    batch, contact = claimed_twice
    cancel(batch)

    assert OtherServiceThread((CLAIM_AND_COUNT_BY_SQL, [contact])).start().result() == "23514"
    assert attempts_of(contact) == 1


def test_a_second_claim_during_a_cancel_waits_for_it_and_is_refused(claimed_twice):
    batch, contact = claimed_twice

    assert write_during_cancel(batch, (CLAIM_AND_COUNT_BY_SQL, [contact])) == "23514"
    assert attempts_of(contact) == 1


def test_control_without_the_guards_a_second_claim_succeeds_after_the_answer(claimed_twice, without_guards):
    batch, contact = claimed_twice

    # At the commit, the deferred foreign key may wait for cancel.
    assert write_during_cancel(batch, (CLAIM_AND_COUNT_BY_SQL, [contact]), waits=(True, False)) is None
    assert attempts_of(contact) == 2


def test_a_cancel_waits_for_a_second_claim_that_began_before_it(claimed_twice):
    batch, contact = claimed_twice

    assert cancel_during_write(batch, CLAIM_AND_COUNT_BY_SQL, [contact]).contacts_skipped == 2
    assert attempts_of(contact) == 2


def test_a_second_claim_and_a_result_that_lock_in_opposite_order_both_succeed(claimed_twice):
    _, contact = claimed_twice
    # The result locks the batch and waits for the contact. The claim has locked the contact and waits for the batch.
    with PausedThread(lambda: record_result(contact), after=BATCH_LOCK) as recording, plain_connection() as plain:
        plain.execute("SET deadlock_timeout = '10s'")
        with plain.transaction():
            plain.execute("UPDATE campaign_contacts SET updated_at = now() WHERE id = %s", [contact])
            recording.let_go()
            assert wait_for_lock_waiter()
            plain.execute(CLAIM_AND_COUNT_BY_SQL, [contact])

    # The result belongs to the first claim, and came after the second.
    assert (recording.release(), recording.attempts) == (False, 2)
    assert attempts_of(contact) == 2


# Writes that make a contact unfinished that is not dialable in the cancel's snapshot


@pytest.fixture(params=["add", "move", "retry", "redial"])
def unseen_write(request, harbour):
    """A batch, and a statement that makes a contact dialable or in progress in it and that cancel cannot see."""
    batch = harbour.batch(queued=3, failed=1)
    elsewhere = harbour.batch(queued=1).contacts.get()
    statement = {
        "add": (ADD_CONTACT_BY_SQL, [batch.pk]),
        "move": (MOVE_BY_SQL, [batch.pk, elsewhere.pk]),
        "retry": (RETRY_BY_SQL, [batch.contacts.get(status=ContactStatus.FAILED).pk]),
        "redial": (CLAIM_BY_SQL, [batch.contacts.get(status=ContactStatus.FAILED).pk]),
    }[request.param]
    return batch, statement


def test_a_write_that_cancel_cannot_see_is_refused_once_cancel_has_committed(unseen_write):
    batch, statement = unseen_write

    assert write_during_cancel(batch, statement) == "23514"
    assert count_unfinished(batch) == 0


def test_control_with_the_weaker_lock_the_contact_stays_unfinished_in_the_cancelled_batch(
    unseen_write, with_weaker_lock
):
    batch, statement = unseen_write

    assert write_during_cancel(batch, statement, waits=(False,)) is None
    assert count_unfinished(batch) == 1


def test_control_without_the_guards_the_contact_stays_unfinished_in_the_cancelled_batch(unseen_write, without_guards):
    batch, statement = unseen_write

    # At the commit, the deferred foreign key may wait for cancel. It does not check the status.
    assert write_during_cancel(batch, statement, waits=(True, False)) is None
    assert count_unfinished(batch) == 1


def test_a_contact_that_was_written_before_cancel_is_skipped(unseen_write):
    batch, (sql, parameters) = unseen_write
    outcome = cancel_during_write(batch, sql, parameters)

    # A contact that was claimed again is in progress, so cancel leaves it alone. The others are dialable.
    redialled = sql == CLAIM_BY_SQL
    assert outcome.contacts_skipped == (3 if redialled else 4)
    assert count_unfinished(batch) == redialled


def test_control_without_the_lock_the_contact_written_before_cancel_stays_unfinished(unseen_write, without_lock):
    batch, (sql, parameters) = unseen_write
    with plain_connection() as plain, plain.transaction():
        plain.execute(sql, parameters)
        with PausedThread(lambda: cancel(batch), after=CONTACT_UPDATE) as cancelling:
            wait_for_lock_waiter()
    cancelling.release()

    assert count_unfinished(batch) == 1


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_writer_with_a_snapshot_from_before_the_cancel_is_refused(unseen_write, isolation):
    batch, (sql, parameters) = unseen_write
    with plain_connection() as plain:
        plain.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        plain.execute("SELECT 1 FROM call_batches")
        cancel(batch)
        with pytest.raises(Exception, match=r"could not serialize|contact_batch_live|which is cancelled"):
            plain.execute(sql, parameters)
        plain.execute("ROLLBACK")

    assert count_unfinished(batch) == 0


# A webhook that locks in the opposite order


def deadlock_with_webhook(batch):
    """
    Make a cancel and a webhook deadlock.

    The cancel holds the batch and waits for a contact; the webhook holds the contact and waits for the batch.
    """
    contact = batch.contacts.filter(status=ContactStatus.QUEUED).first()
    with PausedThread(lambda: cancel(batch), after=BATCH_SELECT) as cancelling, plain_connection() as plain:
        # PostgreSQL looks for a deadlock sooner in the cancel, so the cancel is the victim.
        plain.execute("SET deadlock_timeout = '10s'")
        with plain.transaction():
            plain.execute("UPDATE campaign_contacts SET outcome = 'answered' WHERE id = %s", [contact.pk])
            cancelling.let_go()
            assert wait_for_lock_waiter()
            plain.execute("UPDATE call_batches SET completed = completed + 1 WHERE id = %s", [batch.pk])
        return cancelling.release(), cancelling.attempts


def test_a_cancel_that_is_chosen_as_deadlock_victim_is_retried(harbour):
    batch = harbour.batch(queued=3, in_progress=1)

    outcome, attempts = deadlock_with_webhook(batch)

    assert isinstance(outcome, CancelResult)
    assert (outcome.contacts_skipped, attempts) == (3, 2)
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.skipped) == (BatchStatus.CANCELLED, 1, 3)
    assert batch.events.filter(status="cancelled").count() == 1


def test_control_without_the_retry_the_cancel_fails(harbour, monkeypatch):
    monkeypatch.setattr(db, "DEADLOCK_RETRIES", 0)
    batch = harbour.batch(queued=3)

    outcome, _ = deadlock_with_webhook(batch)

    assert isinstance(outcome, BatchUpdateFailed)
    assert count_unfinished(batch) == 3


# A pause


@pytest.mark.parametrize(("pause", "error"), [(PAUSE_IF_PROCESSING_BY_SQL, None), (PAUSE_BY_SQL, "23514")])
def test_a_pause_that_waited_for_cancel_changes_nothing(harbour, pause, error):
    batch = harbour.batch(queued=3)

    assert write_during_cancel(batch, (pause, [batch.pk])) == error
    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED


def test_control_without_the_guards_a_stale_pause_revives_the_batch(harbour, without_guards):
    batch = harbour.batch(queued=3)

    assert write_during_cancel(batch, (PAUSE_BY_SQL, [batch.pk])) is None
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PAUSED


def test_a_batch_paused_while_cancel_waited_is_cancelled(harbour):
    batch = harbour.batch(queued=3)

    assert cancel_during_write(batch, PAUSE_IF_PROCESSING_BY_SQL, [batch.pk]).contacts_skipped == 3
    assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.CANCELLED


def test_a_batch_completed_while_cancel_waited_is_not_cancelled(harbour):
    batch = harbour.batch(completed=1)
    completes = "UPDATE call_batches SET status = 'completed', completed_at = now() WHERE id = %s"

    assert cancel_during_write(batch, completes, [batch.pk]).code == "batch_already_completed"
