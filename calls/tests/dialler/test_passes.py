"""run_pass(): which batches a pass dials, what it does about errors, and when a batch is completed."""

from datetime import timedelta

import pytest
from django.utils import timezone

from calls.dialler import passes, placing
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.starting import start_batch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.dialling import started_batch
from calls.tests.support.factories import cancel, checked_counters, pause, plain_connection, resume
from calls.tests.support.provider import Answer

pytestmark = pytest.mark.django_db(transaction=True)


# Batches to dial


def test_a_pass_starts_the_due_batches(harbour, ultravox):
    now = harbour.batch(BatchStatus.PENDING, pending=3)
    past = harbour.batch(BatchStatus.SCHEDULED, scheduled=3)
    type(past).objects.filter(pk=past.pk).update(scheduled_for=timezone.now() - timedelta(hours=2))
    ahead = harbour.batch(BatchStatus.SCHEDULED, scheduled=3)
    type(past).objects.filter(pk=ahead.pk).update(scheduled_for=timezone.now() + timedelta(hours=2))
    type(past).objects.update(max_concurrent=1)

    assert run_pass() == PassResult(2, 2, 0)

    for batch, status in ((now, "processing"), (past, "processing"), (ahead, "scheduled")):
        batch.refresh_from_db()
        assert (batch.status, batch.started_at is not None) == (status, status == "processing")
    assert checked_counters(now) == {"total_contacts": 3, "queued": 2, "in_progress": 1}
    assert set(now.contacts.values_list("status", flat=True)) == {"queued", "in_progress"}
    started = now.events.get(status="processing")
    assert started.pgh_context == {"via": "dialler"}


def test_a_pass_dials_every_due_batch(harbour, ultravox):
    batches = [harbour.batch(queued=1) for _ in range(12)]

    assert run_pass() == PassResult(12, 12, 0)
    assert {asked.metadata["batch_id"] for asked in ultravox.asked} == {str(batch.pk) for batch in batches}


def test_a_pass_asks_for_a_contact_at_most_once(harbour, ultravox):
    ultravox.default_answer = Answer(422, places_call=False)
    batch = harbour.batch(queued=3)

    assert run_pass() == PassResult(1, 0, 3)
    assert set(batch.contacts.values_list("status", "attempts")) == {(ContactStatus.QUEUED, 1)}


def test_a_locked_batch_gets_one_try_in_a_round_so_that_it_delays_no_other_batch(harbour, ultravox, monkeypatch):
    locked, free = (started_batch(harbour, queued=30, max_concurrent=30) for _ in range(2))
    tried = []

    def place(batch, **options):
        tried.append(batch.pk)
        return place_next_call(batch, **options)

    monkeypatch.setattr(passes, "place_next_call", place)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT FROM call_batches WHERE id = %s FOR UPDATE", [locked.pk])
        run_pass()

    assert checked_counters(free) == {"total_contacts": 30, "in_progress": 30}
    # Each of the eight threads may have begun before the first of them failed.
    assert tried.count(locked.pk) <= passes.MAX_THREADS


@pytest.mark.parametrize(
    "status", [BatchStatus.PAUSED, BatchStatus.CANCELLED, BatchStatus.COMPLETED, BatchStatus.FAILED]
)
def test_a_pass_dials_no_paused_cancelled_completed_or_failed_batch(harbour, ultravox, status):
    batch = harbour.batch(status, failed=1) if status == BatchStatus.COMPLETED else harbour.batch(status, queued=1)

    assert run_pass() == PassResult(0, 0, 0)
    batch.refresh_from_db()
    assert batch.status == status


def test_a_batch_that_another_dialler_holds_is_not_dialled_and_can_be_cancelled(harbour, ultravox):
    batch = harbour.batch(queued=2)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_pass() == PassResult(0, 0, 0)
    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    assert cancel(batch).contacts_skipped == 2


# A busy provider


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_answer_defers_the_agency_and_counts_no_attempt(harbour, ultravox, status):
    ultravox.default_answer = Answer(status, headers={"Retry-After": "120"}, places_call=False)
    batch = harbour.batch(queued=5)

    assert run_pass() == PassResult(1, 0, 0)
    asked = len(ultravox.asked)
    # Requests that were sent at the same time got the same answer. After that no more were sent.
    assert 1 <= asked <= passes.MAX_THREADS
    assert checked_counters(batch) == {"total_contacts": 5, "queued": 5}
    assert set(batch.contacts.values_list("attempts", flat=True)) == {0}

    assert run_pass() == PassResult(0, 0, 0)
    assert len(ultravox.asked) == asked
    harbour.agency.refresh_from_db()
    batch.refresh_from_db()
    assert 110 < (harbour.agency.dial_after - timezone.now()).total_seconds() <= 120
    assert batch.dial_after is None


def test_after_a_busy_answer_the_pass_leaves_the_batch_alone_even_with_a_retry_after_of_zero(harbour, ultravox):
    ultravox.default_answer = Answer(429, headers={"Retry-After": "0"}, places_call=False)
    harbour.batch(queued=50)

    run_pass()
    assert len(ultravox.asked) <= passes.MAX_THREADS


# Unexpected errors


def test_an_error_while_a_batch_is_started_does_not_stop_the_others(harbour, ultravox, monkeypatch, caplog):
    broken, other = harbour.batch(queued=1), harbour.batch(queued=1)
    type(broken).objects.update(started_at=None)
    monkeypatch.setattr(passes, "start_batch", lambda batch: 1 / 0 if batch == broken else start_batch(batch))

    assert run_pass() == PassResult(2, 2, 0)
    assert other.contacts.get().status == ContactStatus.IN_PROGRESS
    assert "ZeroDivisionError" in caplog.text


def test_an_error_while_a_call_is_placed_does_not_stop_the_others(harbour, ultravox, monkeypatch, caplog):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    call_request = placing._call_request

    def fails_in_first_batch(contact):
        return 1 / 0 if contact.batch_id == first.pk else call_request(contact)

    monkeypatch.setattr(placing, "_call_request", fails_in_first_batch)

    assert run_pass() == PassResult(2, 1, 1)
    assert "ZeroDivisionError" in caplog.text
    assert second.contacts.get().status == ContactStatus.IN_PROGRESS


# Completion


def test_a_batch_is_completed_when_no_contact_is_left_and_no_call_is_in_progress(harbour, ultravox):
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


def test_a_batch_whose_contacts_another_service_finished_is_completed_by_the_next_pass(harbour, ultravox):
    batch = harbour.batch(completed=2)

    assert run_pass() == PassResult(1, 0, 0)
    batch.refresh_from_db()
    assert batch.status == BatchStatus.COMPLETED


def test_a_batch_is_not_completed_while_a_contact_that_another_service_queued_again_is_locked(harbour, ultravox):
    batch = harbour.batch(queued=2)
    run_pass()
    first, last = batch.contacts.all()
    first.record_answered(outcome="answered")
    batch.contacts.filter(pk=first.pk).update(status=ContactStatus.QUEUED)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM campaign_contacts WHERE id = %s FOR UPDATE", [first.pk])
        # Neither of these waits for the locked contact.
        last.record_answered(outcome="answered")
        assert run_pass() == PassResult(1, 0, 0)

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING
    assert run_pass() == PassResult(1, 1, 0)


def test_a_batch_is_not_completed_while_a_contact_waits_for_its_next_attempt(harbour, ultravox, settings):
    settings.RETRY_PAUSE = 300
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    batch.contacts.get().record_failed(outcome="no_answer")

    run_pass()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING


def test_a_batch_that_is_paused_during_its_last_call_is_completed_only_after_it_is_resumed(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    pause(batch)
    batch.contacts.get().record_answered(outcome="answered")

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PAUSED
    resume(batch)
    run_pass()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.COMPLETED
