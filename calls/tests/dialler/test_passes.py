"""The dialler against the provider: who is called, how often, and what becomes of each answer."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from calls.dialler import claims, passes, placing, starting, sweep
from calls.dialler.claims import claim_next_contact
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.starting import start_batch
from calls.dialler.sweep import SweepResult, run_sweep
from calls.models import Call, CampaignContact
from calls.providers.base import ProviderUnavailable
from calls.providers.ultravox import UltravoxProvider
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import CLAIMED, PausedThread, until
from calls.tests.support.factories import CALLER_ID, PHONE, cancel, checked_counters, pause, plain_connection, resume
from calls.tests.support.provider import Answer

pytestmark = pytest.mark.django_db(transaction=True)

LONG_AGO = timedelta(hours=2)


def dial(batch):
    return place_next_call(batch.pk)


def only(batch):
    return batch.contacts.get()


def earlier(batch, by=LONG_AGO):
    """As if what was attempted had been so much earlier."""
    batch.contacts.update(last_attempt_at=F("last_attempt_at") - by)


# One call


def test_a_contact_is_claimed_called_and_its_call_recorded(harbour, ultravox):
    batch = harbour.batch(queued=1)

    assert dial(batch) is DialOutcome.PLACED

    contact, call = only(batch), Call.objects.get()
    assert (contact.status, contact.attempts, contact.call_id) == (ContactStatus.IN_PROGRESS, 1, call.pk)
    assert (call.agency_id, call.batch_id, call.contact_id) == (batch.agency_id, batch.pk, contact.pk)
    assert (call.from_number, call.to_number, call.direction) == (CALLER_ID, PHONE, "outbound")
    assert list(ultravox.calls) == [call.ultravox_call_id]
    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}


def test_the_provider_is_told_whose_call_it_is_in_strings(harbour, ultravox):
    batch = harbour.batch(queued=1)
    batch.contacts.update(custom_data={"policy": "A-17", "due": 120.5, "tags": ["vip"], "none": None, "batch_id": "x"})

    dial(batch)

    (asked,) = ultravox.asked
    assert asked.metadata == {
        "policy": "A-17",
        "due": "120.5",
        "tags": '["vip"]',
        "none": "null",
        "batch_id": str(batch.pk),
        "contact_id": str(only(batch).pk),
        "attempt": "1",
    }


def test_the_claim_is_committed_before_the_provider_is_asked(harbour, ultravox):
    batch = harbour.batch(queued=1)
    ultravox.open.clear()
    dialling = PausedThread(lambda: dial(batch))
    dialling.start()
    until(lambda: ultravox.asked)

    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}
    assert not connection.in_atomic_block
    ultravox.open.set()
    assert dialling.release() is DialOutcome.PLACED


def test_inside_a_transaction_nobody_is_dialled(harbour, ultravox):
    batch = harbour.batch(queued=1)
    with pytest.raises(RuntimeError), transaction.atomic():
        dial(batch)

    assert ultravox.asked == []


@pytest.mark.parametrize("status", [*BatchStatus])
def test_only_a_batch_that_is_processing_is_dialled(harbour, ultravox, status):
    batch = harbour.batch(status, queued=1) if status != BatchStatus.COMPLETED else harbour.batch(status)

    assert (dial(batch) is DialOutcome.PLACED) is (status == BatchStatus.PROCESSING)
    assert len(ultravox.asked) == (status == BatchStatus.PROCESSING)


def test_who_must_not_be_called_is_skipped(harbour, ultravox):
    batch = harbour.batch(queued=3)
    first = batch.contacts.oldest_first().first()
    batch.contacts.exclude(pk=first.pk).update(do_not_call=True)

    assert [dial(batch), dial(batch)] == [DialOutcome.PLACED, DialOutcome.NOTHING_CLAIMED]
    assert len(ultravox.asked) == 1
    skipped = batch.contacts.filter(status=ContactStatus.SKIPPED)
    assert set(skipped.values_list("outcome_notes", flat=True)) == {"Do not call"}
    assert checked_counters(batch) == {"total_contacts": 3, "in_progress": 1, "skipped": 2}


def test_many_who_must_not_be_called_do_not_hold_the_batch_for_long(harbour, ultravox, monkeypatch):
    monkeypatch.setattr(claims, "MAX_SET_ASIDE", 2)
    batch = harbour.batch(queued=5)
    batch.contacts.update(do_not_call=True)

    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    assert checked_counters(batch) == {"total_contacts": 5, "queued": 3, "skipped": 2}


def test_who_has_no_attempt_left_is_not_called_again(harbour, ultravox):
    batch = harbour.batch(queued=1)
    batch.contacts.update(attempts=3)

    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    assert (ultravox.asked, only(batch).status) == ([], ContactStatus.FAILED)
    assert only(batch).completed_at is not None


def test_who_was_not_reached_is_left_alone_for_the_pause(harbour, ultravox, settings):
    settings.RETRY_PAUSE = 300
    batch = harbour.batch(queued=1)
    dial(batch)
    only(batch).record_failed(outcome="no_answer")

    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    earlier(batch, timedelta(seconds=301))
    assert dial(batch) is DialOutcome.PLACED
    assert [asked.attempt[1] for asked in ultravox.asked] == [1, 2]


# What the provider answers


@pytest.mark.parametrize(("left", "status"), [(2, ContactStatus.QUEUED), (1, ContactStatus.FAILED)])
def test_a_call_that_is_refused_is_tried_again_while_attempts_are_left(harbour, ultravox, left, status):
    ultravox.otherwise = Answer(422, places=False)
    batch = harbour.batch(queued=1, completed=1)
    batch.contacts.filter(status=ContactStatus.QUEUED).update(max_attempts=left)

    assert dial(batch) is DialOutcome.FAILED

    contact = batch.contacts.get(attempts=1)
    assert (contact.status, contact.outcome, contact.outcome_notes) == (status, "not_placed", "Not placed: HTTP 422")
    assert (contact.completed_at is None) is (status == ContactStatus.QUEUED)
    assert checked_counters(batch) == {"total_contacts": 2, "completed": 1, str(status): 1}


@pytest.mark.parametrize("status", [429, 503])
def test_a_provider_that_is_busy_costs_nobody_an_attempt_and_the_batch_waits(harbour, ultravox, status):
    ultravox.otherwise = Answer(status, headers={"Retry-After": "120"}, places=False)
    batch = harbour.batch(queued=5)

    assert run_pass() == PassResult(1, 0, 0)
    asked = len(ultravox.asked)
    # Those that were under way at once got the same answer; then nobody asked any more.
    assert 1 <= asked <= passes.MAX_THREADS
    assert checked_counters(batch) == {"total_contacts": 5, "queued": 5}
    assert set(batch.contacts.values_list("attempts", "last_attempt_at")) == {(0, None)}

    assert run_pass() == PassResult(0, 0, 0)
    assert len(ultravox.asked) == asked
    batch.refresh_from_db()
    assert 110 < (batch.dial_after - timezone.now()).total_seconds() <= 120


def test_an_earlier_attempt_is_not_forgotten_when_the_next_is_given_back(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)
    only(batch).record_failed(outcome="no_answer")
    ultravox.otherwise = Answer(429, headers={"Retry-After": "0"}, places=False)

    assert dial(batch) is DialOutcome.HELD
    assert (only(batch).attempts, only(batch).status) == (1, ContactStatus.QUEUED)
    assert not batch.contacts.with_call_in_progress().exists()


def test_after_the_wait_the_batch_goes_on(harbour, ultravox):
    ultravox.answers.append(Answer(503, headers={"Retry-After": "7"}, places=False))
    batch = harbour.batch(queued=1)

    assert [dial(batch), dial(batch)] == [DialOutcome.HELD, DialOutcome.NOTHING_CLAIMED]
    type(batch).objects.update(dial_after=F("dial_after") - timedelta(seconds=7))
    assert dial(batch) is DialOutcome.PLACED


@pytest.mark.parametrize("answer", [Answer(500), Answer(201, body="{}"), Answer(hangs_up=True)])
def test_what_is_unclear_stays_under_way_until_the_provider_has_been_asked(harbour, ultravox, answer):
    ultravox.answers.append(answer)
    batch = harbour.batch(queued=1)

    assert dial(batch) is DialOutcome.FAILED
    assert only(batch).status == ContactStatus.IN_PROGRESS
    assert only(batch).outcome_notes.startswith("Unclear: ")
    # Not at once: the request may still be on its way.
    assert run_sweep() == SweepResult()

    earlier(batch)
    assert run_sweep() == SweepResult(recorded=1)
    assert Call.objects.get().ultravox_call_id in ultravox.calls
    assert (only(batch).call_id, only(batch).outcome_notes) == (Call.objects.get().pk, None)
    assert len(ultravox.asked) == 1


def test_of_what_was_unclear_and_is_not_there_the_attempt_counts(harbour, ultravox):
    ultravox.otherwise = Answer(500, places=False)
    batch = harbour.batch(queued=1)
    batch.contacts.update(max_attempts=2)

    for swept, status in ((1, ContactStatus.QUEUED), (2, ContactStatus.FAILED)):
        assert dial(batch) is DialOutcome.FAILED
        earlier(batch)
        assert run_sweep() == SweepResult(given_back=1)
        assert (only(batch).attempts, only(batch).status) == (swept, status)
    assert only(batch).outcome_notes == "Unclear: HTTP 500"
    assert dial(batch) is DialOutcome.NOTHING_CLAIMED


# A worker that dies


def died(batch):
    """A worker has claimed a contact, and nobody knows what came of it."""
    contact = claim_next_contact(batch)
    earlier(batch)
    return contact


def test_a_contact_whose_worker_died_before_the_request_is_given_back_and_called_once(harbour, ultravox):
    batch = harbour.batch(queued=1)
    batch.contacts.update(max_attempts=1)
    died(batch)

    assert run_sweep() == SweepResult(given_back=1)
    assert (only(batch).attempts, only(batch).status) == (0, ContactStatus.QUEUED)
    assert dial(batch) is DialOutcome.PLACED
    assert len(ultravox.asked) == 1


def test_a_contact_whose_worker_died_after_the_request_is_not_called_again(harbour, ultravox):
    batch = harbour.batch(queued=1)
    contact = died(batch)
    call = ultravox.place({"metadata": {"contact_id": str(contact.pk), "attempt": "1"}})

    assert run_sweep() == SweepResult(recorded=1)
    assert Call.objects.get().ultravox_call_id == call["callId"]
    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    assert ultravox.asked == []


def test_while_the_provider_cannot_be_asked_nobody_is_given_back(harbour, ultravox):
    batch = harbour.batch(queued=1)
    died(batch)
    ultravox.listed = "<html>"

    assert run_sweep() == SweepResult(unclear=1)
    assert only(batch).status == ContactStatus.IN_PROGRESS


def test_a_dead_worker_holds_no_slot_for_ever(harbour, ultravox):
    batch = harbour.batch(queued=2)
    type(batch).objects.update(max_concurrent=1)
    died(batch)

    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    run_sweep()
    assert dial(batch) is DialOutcome.PLACED


def test_in_a_batch_that_was_cancelled_meanwhile_it_is_skipped(harbour, ultravox):
    batch = harbour.batch(queued=2)
    died(batch)
    cancel(batch)

    assert run_sweep() == SweepResult(given_back=1)
    assert set(batch.contacts.values_list("status", "outcome_notes")) == {("skipped", "Batch cancelled")}
    assert checked_counters(batch) == {"total_contacts": 2, "skipped": 2}


def test_a_worker_that_wakes_up_late_places_no_call(harbour, ultravox, settings, monkeypatch):
    batch = harbour.batch(queued=1)
    slow = placing._call_request
    settings.ULTRAVOX_TIMEOUT = 0.1
    monkeypatch.setattr(placing, "_call_request", lambda *claimed: time.sleep(0.2) or slow(*claimed))

    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    assert (ultravox.asked, checked_counters(batch)) == ([], {"total_contacts": 1, "queued": 1})


def test_nor_does_one_that_was_asleep_before_its_claim_was_committed(harbour, ultravox, settings):
    settings.ULTRAVOX_TIMEOUT = 0.1
    batch = harbour.batch(queued=1)
    with PausedThread(lambda: dial(batch), after=CLAIMED) as dialling:
        time.sleep(0.2)

    assert (dialling.outcome, ultravox.asked) == (DialOutcome.NOTHING_CLAIMED, [])
    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}


def test_a_call_whose_end_was_never_told_ends_when_the_provider_is_asked(harbour, ultravox):
    batch = harbour.batch(queued=2)
    dial(batch)
    dial(batch)
    first, second = Call.objects.order_by("created_at")
    ultravox.end(ultravox.calls[first.ultravox_call_id])
    earlier(batch)

    assert run_sweep() == SweepResult(ended=1)
    assert checked_counters(batch) == {"total_contacts": 2, "in_progress": 1, "completed": 1}
    assert CampaignContact.objects.get(pk=second.contact_id).status == ContactStatus.IN_PROGRESS


def test_whose_call_the_provider_does_not_know_is_not_called_again_and_holds_its_slot_for_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)
    ultravox.calls.clear()

    earlier(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult(unclear=1)
    assert only(batch).status == ContactStatus.IN_PROGRESS
    earlier(batch, timedelta(hours=2))
    assert run_sweep() == SweepResult(ended=1)
    assert (only(batch).status, only(batch).outcome) == (ContactStatus.FAILED, "unknown")
    assert checked_counters(batch) == {"total_contacts": 1, "failed": 1}


def test_nor_does_one_whose_end_the_provider_never_says(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)

    earlier(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult()
    earlier(batch, timedelta(hours=2))
    assert run_sweep() == SweepResult(ended=1)
    assert (only(batch).status, only(batch).outcome) == (ContactStatus.FAILED, "unknown")


def test_whose_call_another_service_has_deleted_holds_the_slot_for_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)
    Call.objects.all().delete()

    earlier(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult(unclear=1)
    earlier(batch, timedelta(hours=2))
    assert run_sweep() == SweepResult(ended=1)
    assert (only(batch).status, only(batch).outcome) == (ContactStatus.FAILED, "unknown")
    assert len(ultravox.asked) == 1


def test_nor_does_one_of_which_the_provider_cannot_be_asked(harbour, ultravox):
    batch = harbour.batch(queued=1)
    died(batch)
    ultravox.listed = "<html>"

    earlier(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult(ended=1)
    assert (only(batch).status, only(batch).outcome) == (ContactStatus.FAILED, "unknown")
    assert ultravox.asked == []


def test_nor_one_whose_end_cannot_be_stored(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)
    ultravox.end(next(iter(ultravox.calls.values())))
    earlier(batch, timedelta(hours=25))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE call_webhook_events ADD CONSTRAINT nothing CHECK (event = '') NOT VALID")
    try:
        assert run_sweep() == SweepResult(ended=1)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE call_webhook_events DROP CONSTRAINT nothing")
    assert (only(batch).status, only(batch).outcome) == (ContactStatus.FAILED, "unknown")


def test_nor_one_that_another_service_has_claimed_and_that_still_names_the_call_before(harbour, ultravox, settings):
    batch = harbour.batch(queued=1)
    dial(batch)
    ultravox.end(next(iter(ultravox.calls.values())))
    with plain_connection() as plain:
        plain.execute("UPDATE campaign_contacts SET attempts = 2, last_attempt_at = now() - interval '25 hours'")

    assert run_sweep() == SweepResult(ended=1)
    assert (only(batch).status, only(batch).outcome) == (ContactStatus.FAILED, "unknown")


def test_a_call_that_another_service_has_heard_of_first_is_the_contacts(harbour, ultravox):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    theirs = Call.objects.create(
        agency=harbour.agency, ultravox_call_id="a-call", metadata={"their": "own", "attempt": 0}
    )

    assert Call.record_placed(contact, "a-call", caller_id=CALLER_ID) is True
    theirs.refresh_from_db()
    assert (theirs.batch, theirs.contact, theirs.metadata) == (batch, contact, {"their": "own", "attempt": 1})
    assert only(batch).call_id == theirs.pk


def test_a_call_that_is_another_contacts_stays_that_ones(harbour, ultravox, caplog):
    batch = harbour.batch(queued=2)
    first, second = claim_next_contact(batch), claim_next_contact(batch)
    Call.record_placed(first, "a-call", caller_id=CALLER_ID)

    assert Call.record_placed(second, "a-call", caller_id=CALLER_ID) is False
    assert Call.objects.get().contact == first
    assert CampaignContact.objects.get(pk=second.pk).call_id is None
    assert "belongs to another contact" in caplog.text


def test_a_call_that_the_provider_does_not_know_keeps_no_other_from_being_asked_about(harbour, ultravox, monkeypatch):
    monkeypatch.setattr(sweep, "MAX_CONTACTS", 1)
    batch = harbour.batch(queued=2)
    dial(batch)
    dial(batch)
    first, second = Call.objects.order_by("created_at")
    del ultravox.calls[first.ultravox_call_id]
    ultravox.end(ultravox.calls[second.ultravox_call_id])
    earlier(batch)

    # Half of the sweeps ask about the one, half about the other.
    assert any(run_sweep().ended for _ in range(100))


def test_nor_does_a_list_of_calls_that_takes_all_the_time_there_is(harbour, ultravox, monkeypatch):
    batch = harbour.batch(queued=2)
    dial(batch)
    ultravox.end(next(iter(ultravox.calls.values())))
    claim_next_contact(batch)
    earlier(batch)
    monkeypatch.setattr(sweep, "SWEEP_SECONDS", 0.2)

    def silent(*args, **kwargs):
        time.sleep(0.2)
        raise ProviderUnavailable

    monkeypatch.setattr(UltravoxProvider, "find", silent)

    assert any(run_sweep().ended for _ in range(50))


def test_a_question_that_nobody_foresaw_keeps_no_other_from_being_asked(harbour, ultravox, monkeypatch, caplog):
    batch = harbour.batch(queued=2)
    dial(batch)
    ultravox.end(next(iter(ultravox.calls.values())))
    claim_next_contact(batch)
    earlier(batch)
    monkeypatch.setattr(UltravoxProvider, "find", lambda *args, **kwargs: 1 / 0)

    assert run_sweep() == SweepResult(ended=1, unclear=1)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    "late",
    [
        lambda stale: stale.release_claim(),
        lambda stale: stale.record_rejected(reason="x"),
        lambda stale: stale.record_failed(outcome="x"),
    ],
)
def test_whoever_comes_late_does_not_undo_the_claim_of_the_next(harbour, ultravox, late):
    batch = harbour.batch(queued=1)
    stale = claim_next_contact(batch)
    CampaignContact.objects.get(pk=stale.pk).release_claim()
    assert dial(batch) is DialOutcome.PLACED
    assert only(batch).attempts == stale.attempts

    assert not late(stale)
    assert only(batch).status == ContactStatus.IN_PROGRESS
    assert len(ultravox.asked) == 1


def test_a_call_that_was_recorded_meanwhile_is_not_given_back(harbour, ultravox):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "the-call", caller_id=CALLER_ID)

    assert not contact.release_claim()
    assert not contact.record_rejected(reason="x")
    assert only(batch).status == ContactStatus.IN_PROGRESS


def test_a_provider_that_asks_for_no_pause_is_left_alone_for_this_pass_all_the_same(harbour, ultravox):
    ultravox.otherwise = Answer(429, headers={"Retry-After": "0"}, places=False)
    harbour.batch(queued=50)

    run_pass()
    assert len(ultravox.asked) <= passes.MAX_THREADS


def test_an_exception_that_nobody_foresaw_costs_one_turn(harbour, ultravox, monkeypatch, caplog):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    order = placing._call_request

    def one_breaks(batch, contact):
        return 1 / 0 if batch.pk == first.pk else order(batch, contact)

    monkeypatch.setattr(placing, "_call_request", one_breaks)

    assert run_pass() == PassResult(2, 1, 1)
    assert "ZeroDivisionError" in caplog.text
    assert only(second).status == ContactStatus.IN_PROGRESS


# While it is cancelled


@pytest.mark.parametrize("status", [422, 429, 503])
def test_what_the_provider_does_not_take_while_the_batch_is_cancelled_is_skipped(harbour, ultravox, status):
    ultravox.otherwise = Answer(status, places=False)
    ultravox.open.clear()
    batch = harbour.batch(queued=3)
    dialling = PausedThread(lambda: dial(batch))
    dialling.start()
    until(lambda: ultravox.asked)

    result = cancel(batch)
    ultravox.open.set()
    dialling.release()

    assert (result.contacts_skipped, result.in_progress) == (2, 1)
    assert set(batch.contacts.values_list("status", "outcome_notes")) == {("skipped", "Batch cancelled")}
    assert checked_counters(batch) == {"total_contacts": 3, "skipped": 3}


def test_what_it_takes_goes_on_to_its_end_and_is_not_tried_again(harbour, ultravox):
    ultravox.open.clear()
    batch = harbour.batch(queued=3)
    dialling = PausedThread(lambda: dial(batch))
    dialling.start()
    until(lambda: ultravox.asked)
    cancel(batch)
    batch.refresh_from_db()
    ended = (batch.status, batch.completed_at)
    ultravox.open.set()

    assert dialling.release() is DialOutcome.PLACED
    batch.contacts.get(attempts=1).record_failed(outcome="no_answer")

    assert checked_counters(batch) == {"total_contacts": 3, "failed": 1, "skipped": 2}
    batch.refresh_from_db()
    assert (batch.status, batch.completed_at) == ended


# Limits


def test_no_more_calls_at_once_than_the_batch_may_have(harbour, ultravox):
    batch = harbour.batch(queued=9)
    type(batch).objects.update(max_concurrent=4)

    assert run_pass() == PassResult(1, 4, 0)
    assert run_pass() == PassResult(1, 0, 0)
    batch.contacts.filter(status=ContactStatus.IN_PROGRESS).first().record_answered(outcome="answered")
    assert run_pass() == PassResult(1, 1, 0)


def test_no_more_calls_a_minute_than_the_batch_may_have(harbour, ultravox):
    batch = harbour.batch(queued=9)
    type(batch).objects.update(calls_per_minute=4)

    assert run_pass() == PassResult(1, 4, 0)
    for contact in batch.contacts.filter(status=ContactStatus.IN_PROGRESS):
        contact.record_answered(outcome="answered")
    assert run_pass() == PassResult(1, 0, 0)
    earlier(batch, timedelta(seconds=60))
    assert run_pass() == PassResult(1, 4, 0)


def test_a_pass_waits_a_moment_for_the_next_call_to_be_allowed(harbour, ultravox):
    batch = harbour.batch(queued=3)
    type(batch).objects.update(calls_per_minute=2)
    run_pass()
    earlier(batch, timedelta(seconds=59))

    assert run_pass() == PassResult(1, 1, 0)


def test_limits_hold_however_many_passes_run_at_once(harbour, ultravox):
    batch = harbour.batch(queued=50)
    type(batch).objects.update(calls_per_minute=20, max_concurrent=7)
    passes = [PausedThread(run_pass) for _ in range(4)]
    for each in passes:
        each.start()

    results = [each.release() for each in passes]

    assert sum(result.calls_initiated for result in results) == 7 == len(ultravox.asked)
    assert checked_counters(batch) == {"total_contacts": 50, "queued": 43, "in_progress": 7}


def test_control_without_the_lock_they_do_not(harbour, ultravox, without_lock, monkeypatch):
    batch = harbour.batch(queued=50)
    type(batch).objects.update(max_concurrent=1)
    claimed = claims._next_contact
    together = threading.Barrier(2, timeout=20)

    def at_the_same_moment(batch):
        together.wait()
        return claimed(batch)

    monkeypatch.setattr(claims, "_next_contact", at_the_same_moment)
    both = [PausedThread(lambda: dial(batch)) for _ in range(2)]
    for each in both:
        each.start()
    assert [each.release() for each in both] == [DialOutcome.PLACED, DialOutcome.PLACED]


def test_while_the_provider_takes_its_time_no_connection_is_held(harbour, ultravox):
    ultravox.open.clear()
    batch = harbour.batch(queued=3)
    pool = connection.pool
    connection.close()
    passing = PausedThread(run_pass)
    passing.start()
    until(lambda: len(ultravox.asked) == 3)
    until(lambda: pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"])
    assert not Call.objects.exists()
    ultravox.open.set()

    assert passing.release().calls_initiated == 3
    assert checked_counters(batch) == {"total_contacts": 3, "in_progress": 3}


# A pass


def test_a_pass_starts_what_is_due(harbour, ultravox):
    now = harbour.batch(BatchStatus.PENDING, pending=3)
    past = harbour.batch(BatchStatus.SCHEDULED, scheduled=3)
    type(past).objects.filter(pk=past.pk).update(scheduled_for=timezone.now() - LONG_AGO)
    ahead = harbour.batch(BatchStatus.SCHEDULED, scheduled=3)
    type(past).objects.filter(pk=ahead.pk).update(scheduled_for=timezone.now() + LONG_AGO)
    type(past).objects.update(max_concurrent=1)

    assert run_pass() == PassResult(2, 2, 0)

    for batch, status in ((now, "processing"), (past, "processing"), (ahead, "scheduled")):
        batch.refresh_from_db()
        assert (batch.status, batch.started_at is not None) == (status, status == "processing")
    assert checked_counters(now) == {"total_contacts": 3, "queued": 2, "in_progress": 1}
    assert set(now.contacts.values_list("status", flat=True)) == {"queued", "in_progress"}
    started = now.events.get(status="processing")
    assert started.pgh_context == {"via": "dialler"}


def test_contacts_are_queued_in_chunks_so_that_a_cancel_waits_no_longer_than_one(harbour, monkeypatch):
    monkeypatch.setattr(starting, "QUEUE_CHUNK", 2)
    batch = harbour.batch(BatchStatus.PENDING, pending=7)

    start_batch(batch)

    assert set(batch.contacts.values_list("status", flat=True)) == {"queued"}
    assert checked_counters(batch) == {"total_contacts": 7, "queued": 7}


def test_contacts_that_a_pass_has_not_got_to_are_queued_by_the_next(harbour, monkeypatch):
    batch = harbour.batch(BatchStatus.PENDING, pending=2)
    with monkeypatch.context() as killed:
        killed.setattr(starting, "_queue_pending", lambda batch: None)
        start_batch(batch)
    assert set(batch.contacts.values_list("status", flat=True)) == {"pending"}

    assert start_batch(batch) == 2
    assert set(batch.contacts.values_list("status", flat=True)) == {"queued"}


def test_a_contact_that_another_service_has_locked_keeps_no_other_from_being_queued(harbour):
    batch = harbour.batch(BatchStatus.PENDING, pending=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT FROM campaign_contacts LIMIT 1 FOR UPDATE")

        assert start_batch(batch) == 3

    assert sorted(batch.contacts.values_list("status", flat=True)) == ["pending", "queued", "queued"]


def test_contacts_without_a_time_are_queued_too(harbour, monkeypatch):
    monkeypatch.setattr(starting, "QUEUE_CHUNK", 2)
    batch = harbour.batch(BatchStatus.PENDING, pending=5)
    with plain_connection() as plain:
        plain.execute("ALTER TABLE campaign_contacts ALTER created_at DROP NOT NULL")
        plain.execute(
            "UPDATE campaign_contacts SET created_at = NULL WHERE id IN (SELECT id FROM campaign_contacts LIMIT 3)"
        )
    try:
        assert start_batch(batch) == 5
        assert set(batch.contacts.values_list("status", flat=True)) == {"queued"}
    finally:
        with plain_connection() as plain:
            plain.execute("UPDATE campaign_contacts SET created_at = now()")
            plain.execute("ALTER TABLE campaign_contacts ALTER created_at SET NOT NULL")


def test_a_batch_that_cannot_be_begun_for_whatever_reason_keeps_no_other_waiting(
    harbour, ultravox, monkeypatch, caplog
):
    broken, other = harbour.batch(queued=1), harbour.batch(queued=1)
    monkeypatch.setattr(passes, "start_batch", lambda batch: 1 / 0 if batch == broken else start_batch(batch))

    assert run_pass() == PassResult(1, 1, 0)
    assert only(other).status == ContactStatus.IN_PROGRESS
    assert "ZeroDivisionError" in caplog.text


def test_a_batch_that_another_service_keeps_for_itself_is_not_dialled_and_can_be_cancelled(harbour, ultravox):
    batch = harbour.batch(queued=2)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_pass() == PassResult(0, 0, 0)
    assert dial(batch) is DialOutcome.NOTHING_CLAIMED
    assert cancel(batch).contacts_skipped == 2


def test_nor_does_the_sweep_give_back_whom_that_service_has_claimed(harbour, ultravox):
    batch = harbour.batch(queued=1)
    died(batch)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_sweep() == SweepResult()
    assert only(batch).status == ContactStatus.IN_PROGRESS


def test_a_call_of_ours_ends_although_the_batch_is_another_services_now(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)
    ultravox.end(next(iter(ultravox.calls.values())))
    earlier(batch)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_sweep() == SweepResult(ended=1)
    assert only(batch).status == ContactStatus.COMPLETED


def test_the_time_of_the_first_start_stays(harbour, ultravox):
    batch = harbour.batch(BatchStatus.PENDING, pending=2)
    run_pass()
    batch.refresh_from_db()
    started = batch.started_at
    pause(batch)
    resume(batch)
    run_pass()

    batch.refresh_from_db()
    assert batch.started_at == started


def test_a_batch_that_was_resumed_after_its_time_is_dialled_although_its_contacts_are_pending(harbour, ultravox):
    batch = harbour.batch(BatchStatus.SCHEDULED, pending=2)
    type(batch).objects.update(scheduled_for=timezone.now() - LONG_AGO, max_concurrent=1)
    pause(batch)
    assert run_pass() == PassResult(0, 0, 0)
    resume(batch)

    assert run_pass() == PassResult(1, 1, 0)
    batch.refresh_from_db()
    assert batch.started_at is not None
    assert set(batch.contacts.values_list("status", flat=True)) == {"in_progress", "queued"}


@pytest.mark.parametrize(
    "status", [BatchStatus.PAUSED, BatchStatus.CANCELLED, BatchStatus.COMPLETED, BatchStatus.FAILED]
)
def test_a_pass_leaves_alone_what_is_not_to_be_dialled(harbour, ultravox, status):
    batch = harbour.batch(status, failed=1) if status == BatchStatus.COMPLETED else harbour.batch(status, queued=1)

    assert run_pass() == PassResult(0, 0, 0)
    batch.refresh_from_db()
    assert batch.status == status


def test_a_pass_dials_the_ten_oldest_batches(harbour, ultravox):
    batches = [harbour.batch(queued=1) for _ in range(12)]

    assert run_pass() == PassResult(10, 10, 0)
    assert {asked.metadata["batch_id"] for asked in ultravox.asked} == {str(batch.pk) for batch in batches[:10]}


def test_a_batch_is_completed_when_nobody_is_left_and_no_call_is_under_way(harbour, ultravox):
    batch = harbour.batch(queued=2)
    run_pass()
    first, second = batch.contacts.filter(status=ContactStatus.IN_PROGRESS)

    first.record_answered(outcome="answered")
    run_pass()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING

    second.record_answered(outcome="answered")
    batch.refresh_from_db()
    assert (batch.status, batch.completed_at is not None) == (BatchStatus.COMPLETED, True)
    assert batch.events.get(status="completed").pgh_context == {"via": "dialler"}


def test_a_batch_whose_contacts_another_service_has_finished_is_completed_by_the_next_pass(harbour, ultravox):
    batch = harbour.batch(completed=2)

    assert run_pass() == PassResult(1, 0, 0)
    batch.refresh_from_db()
    assert batch.status == BatchStatus.COMPLETED


def test_whom_another_service_has_queued_again_is_called_when_nobody_else_waits(harbour, ultravox):
    batch = harbour.batch(queued=2)
    run_pass()
    first = batch.contacts.first()
    first.record_answered(outcome="answered")
    # By plain SQL, which leaves completed_at as it was.
    batch.contacts.filter(pk=first.pk).update(status=ContactStatus.QUEUED)

    assert run_pass() == PassResult(1, 1, 0)
    assert batch.contacts.get(pk=first.pk).attempts == 2


def test_a_batch_is_not_completed_before_they_are(harbour, ultravox):
    batch = harbour.batch(queued=2)
    run_pass()
    first, last = batch.contacts.all()
    first.record_answered(outcome="answered")
    batch.contacts.filter(pk=first.pk).update(status=ContactStatus.QUEUED)
    with plain_connection() as plain, plain.transaction():
        # Whom another service has locked nobody waits for.
        plain.execute("SELECT 1 FROM campaign_contacts WHERE id = %s FOR UPDATE", [first.pk])
        last.record_answered(outcome="answered")
        assert run_pass() == PassResult(1, 0, 0)

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING
    assert run_pass() == PassResult(1, 1, 0)


def test_a_batch_in_which_somebody_waits_for_the_next_attempt_is_not_completed(harbour, ultravox, settings):
    settings.RETRY_PAUSE = 300
    batch = harbour.batch(queued=1)
    dial(batch)
    only(batch).record_failed(outcome="no_answer")

    run_pass()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING


def test_a_batch_that_is_paused_meanwhile_is_not_completed_by_its_last_call(harbour, ultravox):
    batch = harbour.batch(queued=1)
    dial(batch)
    pause(batch)
    only(batch).record_answered(outcome="answered")

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PAUSED
    resume(batch)
    run_pass()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.COMPLETED


def test_no_number_reaches_the_log(harbour, ultravox, caplog):
    ultravox.answers.extend([Answer(422, places=False), Answer(500, places=False), Answer(429, places=False)])
    batch = harbour.batch(queued=4)

    with caplog.at_level("DEBUG"):
        for _ in range(4):
            dial(batch)
        earlier(batch)
        run_sweep()

    assert "outcome=failed" in caplog.text
    assert PHONE not in caplog.text
    assert CALLER_ID not in caplog.text
