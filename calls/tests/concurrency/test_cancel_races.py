"""
Whoever races with a cancel: what it promises holds, and each time a control shows that it is the lock, or the
guard, that makes it hold. A control takes that away and finds the promise broken.
"""

import pytest
from django.db.models import QuerySet

from calls.database import transactions as db
from calls.exceptions import BatchAlreadyCancelled, BatchUpdateFailed
from calls.models import CallBatch, CancelResult
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import DIALABLE, BatchStatus, ContactStatus
from calls.tests.support.concurrency import ADD, CLAIM, ForeignWriter, PausedThread, foreign_first, wait_for_lock_waiter
from calls.tests.support.factories import cancel, count, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)

READ = 'FROM "call_batches"'
SKIPPED = 'UPDATE "campaign_contacts"'
ACTIVE = (*DIALABLE, ContactStatus.IN_PROGRESS)

RETRY = "UPDATE campaign_contacts SET status = 'queued' WHERE id = %s"
MOVE = "UPDATE campaign_contacts SET batch_id = %s WHERE id = %s"
CAREFUL_CLAIM = """
    UPDATE campaign_contacts SET status = 'in_progress' WHERE id = (
        SELECT c.id FROM campaign_contacts c JOIN (
            SELECT id, status FROM call_batches WHERE id = %s FOR UPDATE
        ) b ON b.id = c.batch_id AND b.status = 'processing'
        WHERE c.status = 'queued' LIMIT 1
    )
"""


@pytest.fixture
def with_weaker_lock(monkeypatch):
    """A control: cancel takes FOR NO KEY UPDATE, which lets an insert that refers to the batch pass."""
    lock = QuerySet.select_for_update
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, **options: lock(self, no_key=True, **options))


def left_active(batch):
    """Contacts that somebody could still dial, or has begun to."""
    return count(batch, *ACTIVE)


# Another cancel


def two_cancels(batch):
    with PausedThread(lambda: cancel(batch), after=READ) as first:
        second = PausedThread(lambda: cancel(batch))
        second.start()
        wait_for_lock_waiter()
        outcomes = [first.release(), second.release()]
    return sorted(type(outcome).__name__ for outcome in outcomes)


def test_of_two_cancels_one_wins_and_the_other_is_told_so(harbour):
    batch = harbour.batch(queued=3)

    assert two_cancels(batch) == ["BatchAlreadyCancelled", "CancelResult"]
    assert batch.events.filter(status="cancelled").count() == 1
    batch.refresh_from_db()
    assert (batch.skipped, count(batch, ContactStatus.SKIPPED)) == (3, 3)


def test_control_without_the_lock_the_second_is_not_told(harbour, without_lock):
    assert two_cancels(harbour.batch(queued=3)) != ["BatchAlreadyCancelled", "CancelResult"]


def test_many_cancels_at_once_skip_each_contact_once(harbour):
    batch = harbour.batch(queued=50)
    threads = [PausedThread(lambda: cancel(batch)) for _ in range(8)]
    for thread in threads:
        thread.start()

    outcomes = [thread.release() for thread in threads]

    assert [outcome.contacts_skipped for outcome in outcomes if isinstance(outcome, CancelResult)] == [50]
    assert sum(isinstance(outcome, BatchAlreadyCancelled) for outcome in outcomes) == 7
    assert batch.events.filter(status="cancelled").count() == 1


# A claim


def test_a_contact_claimed_before_the_answer_stays_in_progress(harbour):
    batch = harbour.batch(queued=3)
    contact = batch.contacts.first()

    assert foreign_first(batch, CLAIM, [contact.pk]).contacts_skipped == 2
    contact.refresh_from_db()
    assert contact.status == ContactStatus.IN_PROGRESS


def test_control_with_the_status_checked_in_a_subquery_the_claim_is_overwritten(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    contact = batch.contacts.first()
    waiting = list(batch.contacts.values_list("pk", flat=True))
    monkeypatch.setattr(CampaignContactQuerySet, "dialable", lambda self: self.filter(pk__in=waiting))

    foreign_first(batch, CLAIM, [contact.pk])

    contact.refresh_from_db()
    assert contact.status == ContactStatus.SKIPPED


def test_a_claimer_that_locks_the_batch_first_claims_before_cancel(harbour):
    batch = harbour.batch(queued=3)

    assert foreign_first(batch, CAREFUL_CLAIM, [batch.pk]).contacts_skipped == 2
    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def cancel_first(batch, statement, *, meets=(True,)):
    """Cancel has skipped the contacts but not committed when somebody writes: they meet, and this is how that ends."""
    with PausedThread(lambda: cancel(batch), after=SKIPPED) as cancelling:
        foreign = ForeignWriter(statement).start()
        assert wait_for_lock_waiter(foreign.pid) in meets
        assert isinstance(cancelling.release(), CancelResult)
    return foreign.result()


def test_a_claimer_that_locks_the_batch_first_claims_nothing_after_cancel(harbour):
    batch = harbour.batch(queued=3)

    assert cancel_first(batch, (CAREFUL_CLAIM, [batch.pk])) is None
    assert left_active(batch) == 0


def test_control_without_the_lock_the_two_deadlock(harbour, without_lock):
    batch = harbour.batch(queued=3)

    assert cancel_first(batch, (CAREFUL_CLAIM, [batch.pk])) == "40P01"


def test_a_claim_does_not_wait_for_a_cancel_that_has_only_locked_the_batch(harbour):
    batch = harbour.batch(queued=3)
    with PausedThread(lambda: cancel(batch), after=READ) as cancelling:
        foreign = ForeignWriter((CLAIM, [batch.contacts.first().pk])).start()
        assert foreign.result() is None

    assert cancelling.release().contacts_skipped == 2
    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_claim_that_waited_for_cancel_is_refused(harbour):
    batch = harbour.batch(queued=3)

    assert cancel_first(batch, (CLAIM, [batch.contacts.first().pk])) == "23514"
    assert left_active(batch) == 0


def test_control_without_the_guards_it_claims_after_the_answer(harbour, without_guards):
    batch = harbour.batch(queued=3)

    assert cancel_first(batch, (CLAIM, [batch.contacts.first().pk])) is None
    assert left_active(batch) == 1


# Whatever makes a contact dialable that cancel's snapshot does not see


@pytest.fixture(params=["add", "move", "retry", "redial"])
def unseen(request, harbour):
    """A batch being cancelled, and a write that makes a contact dialable in it which cancel cannot see."""
    batch = harbour.batch(queued=3, failed=1)
    elsewhere = harbour.batch(queued=1).contacts.get()
    statement = {
        "add": (ADD, [batch.pk]),
        "move": (MOVE, [batch.pk, elsewhere.pk]),
        "retry": (RETRY, [batch.contacts.get(status=ContactStatus.FAILED).pk]),
        "redial": (CLAIM, [batch.contacts.get(status=ContactStatus.FAILED).pk]),
    }[request.param]
    return batch, statement


def test_a_contact_that_cancel_cannot_see_is_refused_once_it_has_answered(unseen):
    batch, statement = unseen

    assert cancel_first(batch, statement) == "23514"
    assert left_active(batch) == 0


def test_control_with_the_weaker_lock_it_survives_in_the_cancelled_batch(unseen, with_weaker_lock):
    batch, statement = unseen

    assert cancel_first(batch, statement, meets=(False,)) is None
    assert left_active(batch) == 1


def test_control_without_the_guards_it_survives_as_well(unseen, without_guards):
    batch, statement = unseen

    # At its commit the deferred foreign key may have it wait for cancel, but that does not look at the status.
    assert cancel_first(batch, statement, meets=(True, False)) is None
    assert left_active(batch) == 1


def test_a_contact_that_came_before_cancel_is_skipped_by_it(unseen):
    batch, (sql, parameters) = unseen
    outcome = foreign_first(batch, sql, parameters)

    # Somebody called again is in progress, which cancel leaves alone; the others wait, and are skipped.
    redialled = sql == CLAIM
    assert outcome.contacts_skipped == (3 if redialled else 4)
    assert left_active(batch) == redialled


def test_control_without_the_lock_it_is_left_behind(unseen, without_lock):
    batch, (sql, parameters) = unseen
    with plain_connection() as plain, plain.transaction():
        plain.execute(sql, parameters)
        with PausedThread(lambda: cancel(batch), after=SKIPPED) as cancelling:
            wait_for_lock_waiter()
    cancelling.release()

    assert left_active(batch) == 1


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_writer_whose_snapshot_is_older_than_the_cancel_is_refused(unseen, isolation):
    batch, (sql, parameters) = unseen
    with plain_connection() as plain:
        plain.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        plain.execute("SELECT 1 FROM call_batches")
        cancel(batch)
        with pytest.raises(Exception, match=r"could not serialize|contact_batch_live|which is cancelled"):
            plain.execute(sql, parameters)
        plain.execute("ROLLBACK")

    assert left_active(batch) == 0


# A webhook that locks the other way round


def deadlock_with_a_webhook(batch):
    """It has written a contact and now counts it on the batch, while cancel holds the batch and wants the contact."""
    contact = batch.contacts.filter(status=ContactStatus.QUEUED).first()
    with PausedThread(lambda: cancel(batch), after=READ) as cancelling, plain_connection() as plain:
        # The webhook is patient, so that it is the cancel which finds the deadlock and is its victim.
        plain.execute("SET deadlock_timeout = '10s'")
        with plain.transaction():
            plain.execute("UPDATE campaign_contacts SET outcome = 'answered' WHERE id = %s", [contact.pk])
            cancelling.let_go()
            assert wait_for_lock_waiter()
            plain.execute("UPDATE call_batches SET completed = completed + 1 WHERE id = %s", [batch.pk])
        return cancelling.release(), cancelling.attempts


def test_a_cancel_that_falls_victim_to_a_deadlock_tries_again(harbour):
    batch = harbour.batch(queued=3, in_progress=1)

    outcome, attempts = deadlock_with_a_webhook(batch)

    assert isinstance(outcome, CancelResult)
    assert (outcome.contacts_skipped, attempts) == (3, 2)
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.skipped) == (BatchStatus.CANCELLED, 1, 3)
    assert batch.events.filter(status="cancelled").count() == 1


def test_control_without_the_retry_it_fails(harbour, monkeypatch):
    monkeypatch.setattr(db, "DEADLOCK_RETRIES", 0)
    batch = harbour.batch(queued=3)

    outcome, _ = deadlock_with_a_webhook(batch)

    assert isinstance(outcome, BatchUpdateFailed)
    assert left_active(batch) == 3


# A pause

GUARDED_PAUSE = "UPDATE call_batches SET status = 'paused' WHERE id = %s AND status = 'processing'"
STALE_PAUSE = "UPDATE call_batches SET status = 'paused' WHERE id = %s"


@pytest.mark.parametrize(("pause", "met"), [(GUARDED_PAUSE, None), (STALE_PAUSE, "23514")])
def test_a_pause_that_waited_for_cancel_changes_nothing(harbour, pause, met):
    batch = harbour.batch(queued=3)

    assert cancel_first(batch, (pause, [batch.pk])) == met
    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED


def test_control_without_the_guards_a_stale_pause_revives_the_batch(harbour, without_guards):
    batch = harbour.batch(queued=3)

    assert cancel_first(batch, (STALE_PAUSE, [batch.pk])) is None
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PAUSED


def test_a_batch_paused_while_cancel_waited_is_cancelled(harbour):
    batch = harbour.batch(queued=3)

    assert foreign_first(batch, GUARDED_PAUSE, [batch.pk]).contacts_skipped == 3
    assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.CANCELLED


def test_a_batch_completed_while_cancel_waited_is_refused(harbour):
    batch = harbour.batch(completed=1)
    completes = "UPDATE call_batches SET status = 'completed', completed_at = now() WHERE id = %s"

    assert foreign_first(batch, completes, [batch.pk]).code == "batch_already_completed"
