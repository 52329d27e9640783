"""
Races with a hold of an agency. Once the hold has returned, no contact of the agency is claimed.

The hold locks no batch. So a claim checks the agency in the statement that claims the contact, and after its commit the
hold waits for the claims that began before. A control removes one of the two, and finds a claim after the answer.
"""

import pytest
from django.db import connection

from calls.audit import Source
from calls.dialler import claims
from calls.dialler.claims import claim_next_contact
from calls.dialler.starting import start_batch
from calls.exceptions import AgencyUpdateFailed, HoldUnconfirmed
from calls.inputs import NewBatch
from calls.models import Agency, CallBatch, CampaignContact, CreateResult, HoldResult, PauseResult, agency
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.agency_verbs import hold, release
from calls.tests.support.concurrency import (
    BATCH_LOCK,
    BATCH_UPDATE,
    CLAIM_BY_SQL,
    CONTACT_CHOSEN,
    CONTACT_CLAIMED,
    COUNTERS_UPDATE,
    OtherServiceThread,
    PausedThread,
    lose_connection_while_looking,
    until,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import STAFF_ACTOR, cancel, checked_counters, count, plain_connection, resume

pytestmark = pytest.mark.django_db(transaction=True)

AGENCY_UPDATE = 'UPDATE "agencies"'
AGENCY_CONDITION = "AND NOT EXISTS (SELECT FROM agencies WHERE id = %(agency)s AND held_at IS NOT NULL)"


def held_at(tenant):
    return Agency.objects.get(pk=tenant.agency.pk).held_at


def history(tenant):
    return list(tenant.agency.events.order_by("pgh_id").values_list("pgh_label", flat=True))


def start_hold(tenant):
    """Start a hold in a thread, and return the thread as soon as the hold is stored."""
    holding = PausedThread(lambda: hold(tenant))
    holding.start()
    until(lambda: held_at(tenant) or not holding.is_alive())
    return holding


def is_waiting(thread):
    """Return whether the thread still runs after a moment."""
    thread.join(0.3)
    return thread.is_alive()


def create(tenant):
    new = NewBatch.parse(tenant.create_body())
    return CallBatch.create(new, agency_id=tenant.agency.pk, actor=STAFF_ACTOR, source=Source.API)


# A claim of this app


@pytest.mark.parametrize("after", [BATCH_LOCK, CONTACT_CHOSEN])
def test_a_claim_that_has_not_claimed_its_contact_when_the_hold_is_stored_claims_nothing(
    harbour, without_guards, after
):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: claim_next_contact(batch), after=after) as claiming:
        assert hold(harbour).in_progress == 0

    assert claiming.outcome is None
    assert checked_counters(batch) == {"total_contacts": 3, "queued": 3}


def test_control_without_the_condition_in_the_claim_a_contact_is_claimed_after_the_answer(
    harbour, without_guards, monkeypatch
):
    batch = harbour.batch(queued=3)
    assert AGENCY_CONDITION in claims._CLAIM
    monkeypatch.setattr(claims, "_CLAIM", claims._CLAIM.replace(AGENCY_CONDITION, ""))

    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CHOSEN):
        assert hold(harbour).in_progress == 0

    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_hold_waits_for_a_claim_that_is_not_committed_and_counts_it(harbour, without_guards):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CLAIMED) as claiming:
        holding = start_hold(harbour)
        assert is_waiting(holding)

    assert claiming.outcome.status == ContactStatus.IN_PROGRESS
    assert holding.release().in_progress == count(batch, ContactStatus.IN_PROGRESS) == 1


def test_control_without_the_wait_a_contact_is_claimed_after_the_answer(harbour, without_guards, monkeypatch):
    batch = harbour.batch(queued=3)
    monkeypatch.setattr(agency, "wait_for_writers", lambda *args, **kwargs: [])

    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CLAIMED):
        assert hold(harbour).in_progress == 0

    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_claim_after_the_hold_claims_nothing_in_any_batch_of_the_agency(harbour, bluebell, without_guards):
    batches = [harbour.batch(queued=3) for _ in range(3)]
    hold(harbour)

    assert [claim_next_contact(batch) for batch in batches] == [None] * 3
    assert claim_next_contact(bluebell.batch(queued=1))


def test_a_claim_does_not_wait_for_a_hold_that_is_not_committed_and_the_hold_counts_it(harbour):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: hold(harbour), after=AGENCY_UPDATE) as holding:
        assert claim_next_contact(batch)

    assert holding.outcome.in_progress == 1


def test_no_contact_is_claimed_after_a_hold_that_ran_during_many_claims(harbour, without_guards):
    batches = [harbour.batch(queued=100) for _ in range(4)]

    def claim_until_held(batch):
        claimed = 0
        while claim_next_contact(batch):
            claimed += 1
        return claimed

    claimers = [PausedThread(lambda batch=batch: claim_until_held(batch)) for batch in batches]
    for claimer in claimers:
        claimer.start()
    until(lambda: CampaignContact.objects.filter(status=ContactStatus.IN_PROGRESS).count() > 10)
    in_progress = hold(harbour).in_progress

    assert sum(claimer.release() for claimer in claimers) == in_progress < 400
    assert sum(count(batch, ContactStatus.IN_PROGRESS) for batch in batches) == in_progress


# A claim of this app that stays open


def test_a_claim_that_stays_open_leaves_the_hold_unconfirmed_and_asking_again_succeeds(harbour, short_wait):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CLAIMED) as claiming:
        with pytest.raises(HoldUnconfirmed):
            hold(harbour)
        first = held_at(harbour)
        assert first is not None
        assert claim_next_contact(harbour.batch(queued=1)) is None
        with pytest.raises(HoldUnconfirmed):
            hold(harbour)

    assert claiming.outcome
    assert hold(harbour) == HoldResult(harbour.agency.pk, first, in_progress=1)
    assert history(harbour) == ["held"]


def test_an_open_claim_of_another_agency_does_not_leave_the_hold_unconfirmed(harbour, bluebell, short_wait, caplog):
    batch = bluebell.batch(queued=1)

    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CLAIMED):
        assert isinstance(hold(harbour), HoldResult)

    assert f"hold agency={harbour.agency.pk} outcome=uncertain" in caplog.text


def test_a_connection_that_is_lost_during_the_wait_leaves_the_hold_unconfirmed_and_asking_again_succeeds(harbour):
    with connection.execute_wrapper(lose_connection_while_looking), pytest.raises(HoldUnconfirmed):
        hold(harbour)

    assert held_at(harbour) is not None
    assert isinstance(hold(harbour), HoldResult)


# A claim of another service


def test_a_hold_waits_for_a_claim_of_another_service(harbour):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute(CLAIM_BY_SQL, [batch.contacts.first().pk])
        holding = start_hold(harbour)
        assert is_waiting(holding)

    assert isinstance(holding.release(), HoldResult)
    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_hold_does_not_wait_for_a_writer_that_began_after_it_was_stored(harbour):
    batch = harbour.batch(queued=3)
    first, second = batch.contacts.all()[:2]
    note = "UPDATE campaign_contacts SET outcome_notes = 'x' WHERE id = %s"
    with plain_connection() as later, later.transaction():
        with plain_connection() as earlier, earlier.transaction():
            earlier.execute(note, [first.pk])
            holding = start_hold(harbour)
            assert is_waiting(holding)
            later.execute(note, [second.pk])

        assert isinstance(holding.release(), HoldResult)


def test_another_service_that_writes_for_longer_than_the_wait_is_logged_with_its_pid(harbour, short_wait, caplog):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        pid = plain.info.backend_pid
        plain.execute(CLAIM_BY_SQL, [batch.contacts.first().pk])

        assert isinstance(hold(harbour), HoldResult)

    (warning,) = [line for line in caplog.messages if "uncertain" in line]
    assert warning.startswith(f"hold agency={harbour.agency.pk} outcome=uncertain")
    assert warning.endswith(f"pids={pid}")


def test_a_claim_by_sql_after_the_answer_is_refused(harbour):
    batch = harbour.batch(queued=3)
    hold(harbour)

    assert OtherServiceThread((CLAIM_BY_SQL, [batch.contacts.first().pk])).start().result() == "23514"


# A create


def test_a_batch_is_created_during_a_hold_without_a_wait_and_does_not_start(harbour):
    with PausedThread(lambda: hold(harbour), after=AGENCY_UPDATE) as holding:
        batch = create(harbour).batch

    assert isinstance(holding.outcome, HoldResult)
    start_batch(batch)
    assert CallBatch.objects.get().status == BatchStatus.PENDING
    assert claim_next_contact(batch) is None


def test_a_create_that_takes_longer_than_the_wait_does_not_leave_the_hold_unconfirmed(harbour, short_wait):
    with PausedThread(lambda: create(harbour), after=COUNTERS_UPDATE) as creating:
        assert isinstance(hold(harbour), HoldResult)

    assert isinstance(creating.outcome, CreateResult)
    assert claim_next_contact(creating.outcome.batch) is None


# A start and a resume


def test_a_batch_that_is_started_during_a_hold_claims_nothing(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PENDING, pending=3)

    with PausedThread(lambda: start_batch(batch), after=BATCH_UPDATE) as starting:
        # The start holds the batch and writes no contact yet, so the hold does not wait for it.
        assert isinstance(hold(harbour), HoldResult)

    assert starting.outcome is None
    assert claim_next_contact(batch) is None


def test_a_resume_during_a_hold_does_not_wait_and_starts_no_call(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    with PausedThread(lambda: hold(harbour), after=AGENCY_UPDATE) as holding:
        assert resume(batch).status == BatchStatus.PROCESSING

    assert isinstance(holding.outcome, HoldResult)
    assert claim_next_contact(batch) is None


def test_a_hold_during_a_resume_does_not_wait_and_the_resumed_batch_starts_no_call(harbour, without_guards):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    with PausedThread(lambda: resume(batch), after=BATCH_UPDATE) as resuming:
        assert isinstance(hold(harbour), HoldResult)

    assert isinstance(resuming.outcome, PauseResult)
    assert claim_next_contact(batch) is None


# A cancel


def test_a_hold_and_a_cancel_do_not_wait_for_each_other(harbour):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: hold(harbour), after=AGENCY_UPDATE) as holding:
        assert cancel(batch).contacts_skipped == 3

    assert isinstance(holding.outcome, HoldResult)


# A release


def test_a_release_waits_for_a_hold_and_calls_start_again(harbour):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: hold(harbour), after=AGENCY_UPDATE) as holding:
        releasing = PausedThread(lambda: release(harbour))
        releasing.start()
        assert wait_for_lock_waiter()

    assert isinstance(holding.outcome, HoldResult)
    assert releasing.release() == HoldResult(harbour.agency.pk, None, in_progress=0)
    assert history(harbour) == ["held", "released"]
    assert claim_next_contact(batch)


def test_a_claim_that_began_before_the_release_claims_nothing_and_the_next_one_does(harbour):
    batch = harbour.batch(queued=3)
    hold(harbour)

    with PausedThread(lambda: claim_next_contact(batch), after=CONTACT_CHOSEN) as claiming:
        release(harbour)

    assert claiming.outcome is None
    assert claim_next_contact(batch)


def test_a_claim_during_a_release_that_is_not_committed_claims_nothing(harbour):
    batch = harbour.batch(queued=3)
    hold(harbour)

    with PausedThread(lambda: release(harbour), after=AGENCY_UPDATE):
        assert claim_next_contact(batch) is None

    assert claim_next_contact(batch)


# Another hold, and a lock of another service


def test_of_two_concurrent_holds_the_second_keeps_the_time_of_the_first(harbour):
    with PausedThread(lambda: hold(harbour), after=AGENCY_UPDATE) as first:
        second = PausedThread(lambda: hold(harbour))
        second.start()
        assert wait_for_lock_waiter()

    assert first.outcome.held_at == second.release().held_at == held_at(harbour)
    assert history(harbour) == ["held"]


def test_control_without_the_lock_both_holds_are_recorded(harbour, without_lock):
    with PausedThread(lambda: hold(harbour), after='SELECT "agencies"."id"'):
        hold(harbour)

    assert history(harbour) == ["held", "held"]


@pytest.mark.parametrize("verb", [hold, release])
def test_a_hold_or_release_fails_and_changes_nothing_while_another_service_locks_the_agency(
    harbour, short_lock_timeout, verb
):
    batch = harbour.batch(queued=3)
    if verb is release:
        hold(harbour)
    before = held_at(harbour), history(harbour)

    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM agencies WHERE id = %s FOR UPDATE", [harbour.agency.pk])
        with pytest.raises(AgencyUpdateFailed):
            verb(harbour)

    assert (held_at(harbour), history(harbour)) == before
    assert (claim_next_contact(batch) is None) is (verb is release)
