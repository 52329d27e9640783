"""
A number that is in several batches of an agency: two calls to it are never in progress at once.

A control removes a part of the protection, and shows that the number is then called twice.
"""

import pytest

from calls.dialler import claims
from calls.dialler.claims import claim_next_contact
from calls.models import CampaignContact
from calls.statuses import ContactStatus
from calls.tests.support.concurrency import (
    CONTACT_CHOSEN,
    CONTACT_CLAIMED,
    PausedThread,
    is_deadlock,
    wait_for_lock_waiter,
)
from calls.tests.support.factories import PHONE, checked_counters, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)

OTHER_PHONE = "+12125550200"


def batch_of(tenant, *numbers, **fields):
    """Create a batch with one contact for each number, which are claimed in this order."""
    batch = tenant.batch()
    for number in numbers:
        tenant.contact(batch, phone_number=number, **fields).save()
    batch.adjust_counters(queued=len(numbers), total_contacts=len(numbers))
    return batch


def claimed_number(batch):
    """Claim a contact of the batch, and return its number or None."""
    contact = claim_next_contact(batch)
    return contact and contact.phone_number


def calls_to(number):
    return CampaignContact.objects.filter(phone_number=number, status=ContactStatus.IN_PROGRESS).count()


@pytest.fixture
def without_lock_of_number(monkeypatch):
    """For controls: a claim does not lock the number of its contact."""
    monkeypatch.setattr(claims, "_CHOOSE", claims._CHOOSE.replace(claims._TRY_TO_LOCK_NUMBER, "true"))


@pytest.fixture
def without_second_check(monkeypatch):
    """For controls: a claim does not check again whether the number is being called."""
    monkeypatch.setattr(claims, "_CLAIM", claims._CLAIM.replace(claims._NUMBER_IS_FREE, "true"))


# A call that has begun before


def test_a_number_that_is_being_called_is_passed_over_and_called_afterwards(harbour):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE, OTHER_PHONE)
    contact = claim_next_contact(first)

    # The other contacts of the second batch are claimed meanwhile.
    assert [claimed_number(second), claimed_number(second)] == [OTHER_PHONE, None]
    assert checked_counters(second) == {"total_contacts": 2, "queued": 1, "in_progress": 1}

    contact.record_answered(outcome="answered")
    assert claimed_number(second) == PHONE


@pytest.mark.parametrize(
    "end",
    [
        lambda contact: contact.record_failed(outcome="no_answer"),
        lambda contact: contact.record_rejected(reason="refused"),
        lambda contact: contact.release_claim(),
        lambda contact: contact.record_lost(),
    ],
    ids=["failed", "rejected", "released", "lost"],
)
def test_a_number_is_free_however_the_call_to_it_has_ended(harbour, end):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE)
    contact = claim_next_contact(first)
    assert claim_next_contact(second) is None

    assert end(contact)

    assert claimed_number(second) == PHONE


def test_a_number_that_is_twice_in_one_batch_is_called_one_time_after_the_other(harbour):
    batch = batch_of(harbour, PHONE, PHONE)
    contact = claim_next_contact(batch)
    assert claim_next_contact(batch) is None

    contact.record_answered(outcome="answered")

    assert claimed_number(batch) == PHONE


def test_a_batch_whose_last_number_is_being_called_elsewhere_is_not_completed(harbour):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE)
    claim_next_contact(first)

    claim_next_contact(second)

    second.refresh_from_db()
    assert second.status == "processing"


def test_another_agency_calls_the_number_at_the_same_time(harbour, bluebell):
    claim_next_contact(batch_of(harbour, PHONE))

    assert claimed_number(batch_of(bluebell, PHONE)) == PHONE
    assert calls_to(PHONE) == 2


def test_another_agency_calls_the_number_even_while_a_claim_holds_it(harbour, bluebell):
    batch, elsewhere = batch_of(harbour, PHONE), batch_of(bluebell, PHONE)

    with PausedThread(lambda: claimed_number(batch), after=CONTACT_CHOSEN) as claiming:
        assert claimed_number(elsewhere) == PHONE

    assert claiming.outcome == PHONE


# Two claims at the same time


@pytest.mark.parametrize("statement", [CONTACT_CHOSEN, CONTACT_CLAIMED], ids=["chosen", "claimed"])
def test_of_two_claims_of_one_number_at_the_same_time_one_gets_it(harbour, statement):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE)

    with PausedThread(lambda: claimed_number(first), after=statement) as claiming:
        # It does not wait for the first one.
        assert claimed_number(second) is None

    assert claiming.outcome == PHONE
    assert calls_to(PHONE) == 1


def test_many_claims_of_one_number_in_many_batches_get_it_once(harbour):
    batches = [batch_of(harbour, PHONE) for _ in range(12)]
    claimers = [PausedThread(lambda batch=batch: claimed_number(batch)) for batch in batches]
    for claimer in claimers:
        claimer.start()

    assert [claimer.release() for claimer in claimers].count(PHONE) == 1 == calls_to(PHONE)


def test_claims_of_one_list_in_an_agency_with_a_limit_get_different_numbers(harbour):
    type(harbour.agency).objects.update(max_concurrent_calls=10)
    first, second = batch_of(harbour, PHONE, OTHER_PHONE), batch_of(harbour, PHONE, OTHER_PHONE)

    with PausedThread(lambda: claimed_number(first), after=CONTACT_CHOSEN) as claiming:
        other = PausedThread(lambda: claimed_number(second))
        other.start()
        # It waits for the agency, and has not locked a number.
        assert wait_for_lock_waiter()

    assert (claiming.outcome, other.release()) == (PHONE, OTHER_PHONE)


def test_a_claim_locks_its_own_number_alone_not_those_of_contacts_that_it_passes_over(harbour):
    batch = harbour.batch(queued=51)
    *passed_over, _ = batch.contacts.in_call_order()

    with plain_connection() as plain, plain.transaction():
        plain.execute(
            "SELECT FROM campaign_contacts WHERE id = ANY(%s) FOR UPDATE", [[each.pk for each in passed_over]]
        )
        with PausedThread(lambda: claimed_number(batch), after=CONTACT_CHOSEN) as claiming:
            (locks,) = plain.execute(
                "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
                # The claim also shares a lock of its agency.
                " WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND datname = current_database()"
            ).fetchone()

    assert claiming.outcome is not None
    assert locks == 1


def test_control_without_the_number_s_lock_two_claims_at_the_same_time_get_it(harbour, without_lock_of_number):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE)

    with PausedThread(lambda: claimed_number(first), after=CONTACT_CLAIMED):
        assert claimed_number(second) == PHONE

    assert calls_to(PHONE) == 2


# A claim that was committed after the second one had looked for calls to the number, and before it locked the number.
# Without the lock, a pause at that moment is possible.


def test_a_call_that_began_after_the_contact_was_chosen_is_seen_by_the_second_check(harbour, without_lock_of_number):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE)

    with PausedThread(lambda: claimed_number(second), after=CONTACT_CHOSEN) as claiming:
        assert claimed_number(first) == PHONE

    assert claiming.outcome is None
    assert calls_to(PHONE) == 1
    assert checked_counters(second) == {"total_contacts": 1, "queued": 1}


def test_control_without_the_second_check_a_call_that_began_meanwhile_is_not_seen(
    harbour, without_lock_of_number, without_second_check
):
    first, second = batch_of(harbour, PHONE), batch_of(harbour, PHONE)

    with PausedThread(lambda: claimed_number(second), after=CONTACT_CHOSEN) as claiming:
        assert claimed_number(first) == PHONE

    assert claiming.outcome == PHONE
    assert calls_to(PHONE) == 2


# Two claims that each hold a number


def batch_that_skips(tenant, skipped, number):
    """Create a batch whose claim skips the contact with the first number, and then tries to claim the second one."""
    batch = batch_of(tenant, skipped, number)
    batch.contacts.filter(phone_number=skipped).update(do_not_call=True)
    return batch


def test_two_claims_that_each_hold_a_number_and_try_the_other_s_do_not_deadlock(harbour):
    first = batch_that_skips(harbour, PHONE, OTHER_PHONE)
    second = batch_that_skips(harbour, OTHER_PHONE, PHONE)

    with PausedThread(lambda: claimed_number(second), after=CONTACT_CHOSEN) as holding:
        with PausedThread(lambda: claimed_number(first), after=CONTACT_CHOSEN) as trying:
            pass
        # The first claim ends while the second one still holds the number that it tried.
        assert trying.outcome is None

    assert holding.outcome == PHONE
    assert claimed_number(first) == OTHER_PHONE
    assert checked_counters(first) == {"total_contacts": 2, "in_progress": 1, "skipped": 1}


def test_control_when_claims_wait_for_numbers_one_of_the_two_is_a_deadlock_victim(harbour, monkeypatch):
    lock = claims._TRY_TO_LOCK_NUMBER
    waiting = f"{lock.replace('pg_try_advisory', 'pg_advisory')} IS NOT NULL"
    monkeypatch.setattr(claims, "_CHOOSE", claims._CHOOSE.replace(lock, waiting))
    first = batch_that_skips(harbour, PHONE, OTHER_PHONE)
    second = batch_that_skips(harbour, OTHER_PHONE, PHONE)

    with (
        PausedThread(lambda: claimed_number(second), after=CONTACT_CHOSEN) as one,
        PausedThread(lambda: claimed_number(first), after=CONTACT_CHOSEN) as other,
    ):
        one.let_go()

    assert [is_deadlock(thread.outcome) for thread in (one, other)].count(True) == 1
