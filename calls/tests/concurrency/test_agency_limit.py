"""
The limit of an agency's calls in progress, ``agencies.max_concurrent_calls``, across claims in several batches.

A control removes the lock of the agency's row, or takes a stronger one, and shows what goes wrong.
"""

import pytest
from psycopg.errors import DeadlockDetected

from calls.dialler import claims
from calls.dialler.claims import claim_next_contact
from calls.models import Agency, CampaignContact, CancelResult
from calls.statuses import ContactStatus
from calls.tests.support.agency_verbs import hold
from calls.tests.support.concurrency import (
    BATCH_LOCK,
    CONTACT_CHOSEN,
    CONTACT_CLAIMED,
    OtherServiceThread,
    PausedThread,
    is_deadlock,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import cancel, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)

LOCK_AGENCY = "SELECT 1 FROM agencies WHERE id = %s FOR UPDATE"


def limit(tenant, calls):
    Agency.objects.filter(pk=tenant.agency.pk).update(max_concurrent_calls=calls)


def calls_in_progress():
    return CampaignContact.objects.filter(status=ContactStatus.IN_PROGRESS).count()


def claim_all(batch):
    """Claim contacts of the batch until none can be claimed, and return how many there were."""
    claimed = 0
    while claim_next_contact(batch):
        claimed += 1
    return claimed


# The limit


def test_the_limit_counts_the_calls_in_all_batches_of_the_agency(harbour, bluebell):
    first, second = harbour.batch(queued=5), harbour.batch(queued=5)
    limit(harbour, 3)

    assert [claim_all(first), claim_all(second)] == [3, 0]
    # Another agency has its own limit, or none.
    assert claim_all(bluebell.batch(queued=5)) == 5


def test_the_limit_counts_only_calls_in_progress(harbour):
    first, second = harbour.batch(queued=5), harbour.batch(queued=5)
    limit(harbour, 2)
    answered, failed = claim_next_contact(first), claim_next_contact(first)
    assert claim_next_contact(second) is None

    answered.record_answered(outcome="answered")
    failed.record_failed(outcome="no_answer")

    assert claim_all(second) == 2


@pytest.mark.parametrize(("calls", "claimed"), [(None, 5), (0, 0), (5, 5), (100, 5)])
def test_null_means_no_limit_and_0_no_call(harbour, calls, claimed):
    batch = harbour.batch(queued=5)
    limit(harbour, calls)

    assert claim_all(batch) == claimed


def test_a_lower_limit_ends_no_call_and_starts_none(harbour):
    batch = harbour.batch(queued=5)
    limit(harbour, 4)
    assert claim_all(batch) == 4

    limit(harbour, 2)

    assert claim_all(batch) == 0
    assert calls_in_progress() == 4


# Claims in several batches at the same time


def test_the_limit_is_never_exceeded_by_concurrent_claims_in_several_batches(harbour):
    batches = [harbour.batch(queued=20) for _ in range(6)]
    limit(harbour, 7)
    claimers = [PausedThread(lambda batch=batch: claim_all(batch)) for batch in batches * 2]
    for claimer in claimers:
        claimer.start()

    assert sum(claimer.release() for claimer in claimers) == 7 == calls_in_progress()


def test_a_claim_waits_for_a_claim_in_another_batch_of_its_agency_and_counts_its_call(harbour):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    limit(harbour, 1)

    with PausedThread(lambda: claim_next_contact(first), after=CONTACT_CHOSEN) as claiming:
        other = PausedThread(lambda: claim_next_contact(second))
        other.start()
        assert wait_for_lock_waiter()

    assert claiming.outcome is not None
    assert other.release() is None


def test_waiting_claims_of_a_limited_agency_claim_nothing_after_a_hold(harbour, without_guards):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    limit(harbour, 2)

    with PausedThread(lambda: claim_next_contact(first), after=CONTACT_CHOSEN) as claiming:
        waiting = PausedThread(lambda: claim_next_contact(second))
        waiting.start()
        assert wait_for_lock_waiter()
        hold(harbour)

    assert (claiming.outcome, waiting.release()) == (None, None)
    assert calls_in_progress() == 0


def test_control_without_the_agency_s_lock_two_claims_exceed_the_limit(harbour, monkeypatch):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    limit(harbour, 1)
    monkeypatch.setattr(claims, "_lock_agency", lambda batch: None)

    with PausedThread(lambda: claim_next_contact(first), after=CONTACT_CHOSEN):
        assert claim_next_contact(second) is not None

    assert calls_in_progress() == 2


# The lock of the agency's row


def test_a_claim_in_an_agency_without_a_limit_does_not_lock_the_agency(harbour):
    batch = harbour.batch(queued=1)

    with plain_connection() as plain, plain.transaction():
        plain.execute(LOCK_AGENCY, [harbour.agency.pk])
        claiming = PausedThread(lambda: claim_next_contact(batch))
        claiming.start()

        assert claiming.release() is not None


def test_claims_in_two_batches_of_an_agency_without_a_limit_do_not_wait_for_each_other(harbour):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)

    with PausedThread(lambda: claim_next_contact(first), after=CONTACT_CLAIMED) as claiming:
        assert claim_next_contact(second) is not None

    assert claiming.outcome is not None


def test_a_claim_with_a_limit_does_not_wait_for_what_other_services_do_to_the_agency(harbour):
    """Otherwise a cancel would wait as well, because the claim holds the batch."""
    batch = harbour.batch(queued=1)
    limit(harbour, 1)

    with plain_connection() as plain, plain.transaction():
        plain.execute(LOCK_AGENCY, [harbour.agency.pk])
        claiming = PausedThread(lambda: claim_next_contact(batch))
        claiming.start()
        assert claiming.release() is not None


# The order of the locks: the batch, then the agency


@pytest.mark.parametrize("contacts", [1, 2])
def test_a_claim_that_waits_for_the_agency_does_not_deadlock_with_a_cancel_of_its_batch(harbour, contacts):
    first, second = harbour.batch(queued=1), harbour.batch(queued=contacts)
    limit(harbour, 2)

    with (
        PausedThread(lambda: claim_next_contact(second), after=BATCH_LOCK) as waiting,
        PausedThread(lambda: claim_next_contact(first), after=CONTACT_CHOSEN) as claiming,
    ):
        waiting.let_go()
        cancelling = PausedThread(lambda: cancel(second))
        cancelling.start()
        # The claim waits for the agency, and the cancel for the claim's batch.
        assert wait_for_lock_waiter(count=2)

    assert None not in (claiming.outcome, waiting.outcome)
    cancelled = cancelling.release()
    assert isinstance(cancelled, CancelResult)
    assert cancelled.contacts_skipped == contacts - 1


@pytest.fixture
def call_inserted_during_a_claim(harbour):
    """
    Insert a call of the agency by SQL while a claim holds its batch, and then update the batch.

    Return the outcome of the claim, and the SQLSTATE of the other service's error or None. The foreign key of the call
    locks the agency ``FOR KEY SHARE`` until the update has been committed.
    """

    def run():
        batch = harbour.batch(queued=1)
        limit(harbour, 1)
        statements = (
            "BEGIN",
            # Like the foreign keys of most adopted tables.
            "SET CONSTRAINTS ALL IMMEDIATE",
            f"INSERT INTO calls (agency_id, ultravox_call_id) VALUES ('{harbour.agency.pk}', 'a-call')",
            f"UPDATE call_batches SET updated_at = now() WHERE id = '{batch.pk}'",
            "COMMIT",
        )
        with PausedThread(lambda: claim_next_contact(batch), after=BATCH_LOCK) as claiming:
            other = OtherServiceThread(("; ".join(statements), None)).start()
            assert wait_for_lock_waiter(other.pid)
        return claiming.outcome, other.result()

    return run


def test_a_claim_does_not_deadlock_with_a_service_that_inserts_a_call_and_then_updates_the_batch(
    call_inserted_during_a_claim,
):
    claimed, error = call_inserted_during_a_claim()

    assert claimed.status == ContactStatus.IN_PROGRESS
    assert error is None


def test_control_with_a_lock_of_the_agency_s_row_the_two_deadlock(call_inserted_during_a_claim, monkeypatch):
    monkeypatch.setattr(
        claims, "_lock_agency", lambda batch: Agency.objects.select_for_update().get(pk=batch.agency_id)
    )

    claimed, error = call_inserted_during_a_claim()

    # PostgreSQL chooses one of the two as the victim.
    assert is_deadlock(claimed) != (error == DeadlockDetected.sqlstate)
