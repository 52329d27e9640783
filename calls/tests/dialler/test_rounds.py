"""next_round(): which batches have a turn, in which order, and with how many calls."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler import rounds
from calls.dialler.rounds import Turn, next_round
from calls.models import Agency
from calls.statuses import BatchStatus
from calls.tests.support.dialling import add_call, change, claim, started_batch

pytestmark = pytest.mark.django_db

TEN_MINUTES = timedelta(minutes=10)


def turns(*, include_empty=False, **options):
    """Return the calls of each batch in the next round, in the order of the turns."""
    return {turn.batch_id: turn.calls for turn in next_round(include_empty=include_empty, **options).turns}


def change_agency(tenant, **columns):
    Agency.objects.filter(pk=tenant.agency.pk).update(**columns)


# Which batches have a turn


def test_every_due_batch_has_a_turn(harbour):
    batches = [started_batch(harbour) for _ in range(25)]

    assert set(turns()) == {batch.pk for batch in batches}


def test_a_turn_names_the_batch_and_its_agency(harbour):
    batch = started_batch(harbour, max_concurrent=4)

    (turn,) = next_round(include_empty=False).turns

    assert turn == Turn(batch.pk, harbour.agency.pk, places=[0, 1, 2, 3], start=False)
    assert (turn.batch.pk, turn.batch.agency_id) == (batch.pk, harbour.agency.pk)


def use_all_concurrency(tenant, batches):
    for batch in batches:
        claim(change(batch, max_concurrent=1))


def use_the_minute_up(tenant, batches):
    for batch in batches:
        change(batch, calls_per_minute=1)
        claim(batch).record_answered(outcome="answered")


def let_all_contacts_rest(tenant, batches):
    for batch in batches:
        batch.contacts.update(last_attempt_at=timezone.now() - timedelta(minutes=2))


def defer_batches(tenant, batches):
    for batch in batches:
        change(batch, dial_after=timezone.now() + timedelta(minutes=1))


def pause_batches(tenant, batches):
    for batch in batches:
        change(batch, status=BatchStatus.PAUSED)


def schedule_batches(tenant, batches):
    for batch in batches:
        change(batch, status=BatchStatus.SCHEDULED, scheduled_for=timezone.now() + timedelta(minutes=1))


def use_the_agency_up(tenant, batches):
    claim(batches[0])
    change_agency(tenant, max_concurrent_calls=1)


def defer_agency(tenant, batches):
    change_agency(tenant, dial_after=timezone.now() + timedelta(minutes=1))


WAYS_TO_WAIT = {
    "at max_concurrent": use_all_concurrency,
    "at calls_per_minute": use_the_minute_up,
    "resting": let_all_contacts_rest,
    "deferred": defer_batches,
    "paused": pause_batches,
    "scheduled ahead": schedule_batches,
    "of an agency at its limit": use_the_agency_up,
    "of an agency that is deferred": defer_agency,
}


@pytest.mark.parametrize("wait", WAYS_TO_WAIT.values(), ids=WAYS_TO_WAIT)
def test_batches_that_wait_have_no_turn_and_keep_no_other_batch_from_one(harbour, bluebell, settings, wait):
    settings.RETRY_PAUSE = 300
    waiting = [started_batch(harbour, queued=2) for _ in range(12)]
    newest = started_batch(bluebell, max_concurrent=3)

    wait(harbour, waiting)

    assert turns() == {newest.pk: 3}


def test_batches_whose_contacts_rest_do_not_keep_a_new_batch_of_their_agency_from_starting(harbour, settings):
    settings.RETRY_PAUSE = 300
    let_all_contacts_rest(harbour, [started_batch(harbour) for _ in range(12)])
    new = harbour.batch(BatchStatus.PENDING, pending=1)

    (turn,) = next_round(include_empty=False).turns

    assert (turn.batch_id, turn.start) == (new.pk, True)


def test_a_batch_that_is_not_started_has_a_turn_even_if_its_agency_is_at_its_limit(harbour):
    change_agency(harbour, max_concurrent_calls=1)
    claim(started_batch(harbour))
    new = harbour.batch(BatchStatus.PENDING, pending=1)

    assert next_round(include_empty=False).turns == [Turn(new.pk, harbour.agency.pk, places=[], start=True)]


def test_a_batch_that_is_not_started_has_no_turn_while_its_agency_is_deferred(harbour):
    harbour.batch(BatchStatus.PENDING, pending=1)
    defer_agency(harbour, [])

    assert next_round(include_empty=False).turns == []


def test_a_batch_that_is_not_started_has_no_turn_while_its_agency_has_no_key(harbour, encrypted):
    harbour.batch(BatchStatus.PENDING, pending=1)

    assert next_round(include_empty=True).turns == []


def test_a_started_batch_without_a_contact_to_call_has_a_turn_only_in_a_round_with_empty_batches(harbour):
    batch = started_batch(harbour, queued=0)

    assert next_round(include_empty=False).turns == []
    # A start may finish the batch, or queue a contact again.
    assert next_round(include_empty=True).turns == [Turn(batch.pk, harbour.agency.pk, places=[0], start=True)]


def test_a_skipped_batch_has_no_turn(harbour):
    first, second = started_batch(harbour), started_batch(harbour)

    assert set(turns(skip=[first.pk])) == {second.pk}


def test_a_skipped_batch_that_is_not_started_has_no_turn(harbour):
    batch = harbour.batch(BatchStatus.PENDING, pending=1)

    assert turns(skip=[batch.pk]) == {}


def test_contacts_that_were_called_since_called_before_give_their_batch_no_turn(harbour):
    batch = started_batch(harbour)
    began = next_round(include_empty=False).read_at
    claim(batch).record_failed(outcome="no_answer")

    assert set(turns()) == {batch.pk}
    assert turns(called_before=began) == {}


# The order of the turns


def test_the_batch_that_was_called_least_recently_comes_first(harbour):
    recent, earlier, never = (started_batch(harbour) for _ in range(3))
    add_call(recent, ago=TEN_MINUTES)
    add_call(earlier, ago=2 * TEN_MINUTES)

    assert list(turns()) == [never.pk, earlier.pk, recent.pk]


def test_of_two_batches_that_were_never_called_the_older_one_comes_first(harbour):
    newer, older = started_batch(harbour), started_batch(harbour)
    change(older, created_at=timezone.now() - timedelta(days=1))

    assert list(turns()) == [older.pk, newer.pk]


def test_the_agency_that_was_called_least_recently_comes_first_even_if_another_has_a_batch_without_calls(
    harbour, bluebell
):
    called, never_called, of_other_agency = started_batch(harbour), started_batch(harbour), started_batch(bluebell)
    add_call(called, ago=TEN_MINUTES)
    add_call(of_other_agency, ago=2 * TEN_MINUTES)

    assert list(turns()) == [of_other_agency.pk, never_called.pk, called.pk]


def test_the_one_batch_of_an_agency_is_among_the_first_two_however_many_batches_another_agency_has(harbour, bluebell):
    for _ in range(30):
        started_batch(harbour)
    only = started_batch(bluebell)

    assert only.pk in list(turns())[:2]


def test_batches_that_only_have_to_be_started_come_last(harbour, bluebell):
    change_agency(harbour, max_concurrent_calls=0)
    new = harbour.batch(BatchStatus.PENDING, pending=1)
    with_calls = started_batch(bluebell)

    assert list(turns()) == [with_calls.pk, new.pk]


# How many calls


def test_an_agency_has_as_many_calls_of_a_full_round_as_another_agency_with_many_batches(harbour, bluebell):
    many = [started_batch(harbour) for _ in range(30)]
    only = started_batch(bluebell)

    calls = turns()

    assert sum(calls.values()) == rounds.CALLS_PER_ROUND
    assert calls[only.pk] == sum(calls[batch.pk] for batch in many) == rounds.CALLS_PER_ROUND / 2


def test_the_batches_of_an_agency_have_equally_many_calls_of_a_full_round(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 9)
    for _ in range(3):
        started_batch(harbour)

    assert list(turns().values()) == [3, 3, 3]


def test_calls_that_a_batch_may_not_place_go_to_the_others(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 9)
    small, large = started_batch(harbour, max_concurrent=2), started_batch(harbour)

    assert turns() == {small.pk: 2, large.pk: 7}


def test_a_skipped_batch_takes_no_calls_from_the_others(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 4)
    skipped, other = started_batch(harbour), started_batch(harbour)

    assert turns(skip=[skipped.pk]) == {other.pk: 4}


@pytest.mark.parametrize(
    ("limits", "calls"),
    [({"max_concurrent": 5}, 3), ({"calls_per_minute": 4}, 2), ({"max_concurrent": 5, "calls_per_minute": 4}, 2)],
    ids=str,
)
def test_a_turn_has_as_many_calls_as_the_limits_of_its_batch_leave(harbour, limits, calls):
    batch = started_batch(harbour, queued=9, **limits)
    claim(batch)
    claim(batch)

    assert turns() == {batch.pk: calls}


def test_the_free_calls_of_an_agency_are_shared_by_its_batches(harbour):
    batches = [started_batch(harbour, queued=9) for _ in range(3)]
    claim(batches[0])
    change_agency(harbour, max_concurrent_calls=6)

    # One of six is in progress in the first batch, which therefore comes last.
    assert turns() == {batches[1].pk: 2, batches[2].pk: 2, batches[0].pk: 1}


def test_a_round_has_at_most_calls_per_round_calls_and_is_then_full(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 7)
    for _ in range(3):
        started_batch(harbour)

    current = next_round(include_empty=False)

    assert sum(turn.calls for turn in current.turns) == 7
    assert current.is_full


def test_a_round_with_fewer_calls_is_not_full(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 7)
    started_batch(harbour, max_concurrent=6)

    assert not next_round(include_empty=False).is_full


def test_the_batches_for_which_a_round_had_no_room_come_first_in_the_next_round(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 2)
    batches = [started_batch(harbour, queued=9) for _ in range(5)]

    served = []
    for _ in range(3):
        for turn in next_round(include_empty=False).turns:
            claim(turn.batch)
            served.append(turn.batch_id)

    assert served == [batch.pk for batch in [*batches, batches[0]]]


# What else a round tells


def test_a_round_was_read_at_the_time_of_the_database_or_never_if_no_batch_is_due(harbour):
    assert next_round(include_empty=True).read_at is None
    batch = started_batch(harbour)
    read_at = next_round(include_empty=True).read_at

    assert abs(read_at - timezone.now()) < timedelta(seconds=10)
    change(batch, status=BatchStatus.PAUSED)
    assert next_round(include_empty=True).read_at is None


def test_a_round_tells_whether_calls_per_minute_delays_a_call(harbour):
    batch = started_batch(harbour, queued=2, calls_per_minute=1)
    assert not next_round(include_empty=False).waits_for_rate

    claim(batch)

    assert next_round(include_empty=False).waits_for_rate


@pytest.mark.parametrize("include_empty", [False, True])
def test_a_round_takes_the_same_queries_for_3_and_for_300_batches(harbour, include_empty):
    def statements():
        next_round(include_empty=include_empty)
        with CaptureQueriesContext(connection) as queries:
            next_round(include_empty=include_empty)
        return [query["sql"] for query in queries]

    batches = [started_batch(harbour) for _ in range(3)]
    few = statements()
    batches += [started_batch(harbour) for _ in range(297)]
    many = statements()

    assert len(many) == len(few)
    assert len([sql for sql in many if "call_batches" in sql]) == 1


# The log


@pytest.fixture
def logged(caplog):
    """Return what the rounds have logged about a batch."""
    caplog.set_level("INFO", logger="calls.dialler.rounds")

    def logged(batch):
        messages = [record.getMessage() for record in caplog.records if record.name == "calls.dialler.rounds"]
        return [message.partition("outcome=")[2] for message in messages if f"batch={batch.pk}" in message]

    return logged


def test_what_a_batch_waits_for_is_logged_once_and_again_when_the_reason_changes(harbour, logged):
    batch = started_batch(harbour, queued=9, max_concurrent=1)
    claim(batch)

    for _ in range(2):
        next_round(include_empty=False)
    assert logged(batch) == ["waiting: 1 call in progress, the most this batch may have"]

    change(batch, max_concurrent=2, calls_per_minute=1)
    for _ in range(2):
        next_round(include_empty=False)
    assert logged(batch)[1:] == ["waiting: 1 call started in the last minute, the most this batch may start"]


def test_a_reason_is_not_logged_again_when_only_its_number_changes(harbour, logged):
    batch = started_batch(harbour, queued=9, max_concurrent=1)
    claim(batch)
    next_round(include_empty=False)
    change(batch, max_concurrent=2)
    claim(batch)
    next_round(include_empty=False)

    assert logged(batch) == ["waiting: 1 call in progress, the most this batch may have"]


def test_nothing_is_remembered_about_a_batch_that_is_no_longer_due(harbour):
    batch = started_batch(harbour, queued=2, max_concurrent=1)
    claim(batch)
    next_round(include_empty=False)
    change(batch, status=BatchStatus.PAUSED)
    next_round(include_empty=False)

    assert batch.pk not in rounds._logged


def test_nothing_is_logged_about_a_batch_that_can_place_a_call(harbour, logged):
    batch = started_batch(harbour)

    next_round(include_empty=True)

    assert logged(batch) == []
