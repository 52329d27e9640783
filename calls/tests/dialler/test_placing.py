"""place_next_call(): claim a contact, send the request, and record the provider's answer."""

import time
from datetime import timedelta

import pytest
from django.db import connection, transaction

from calls.dialler import placing
from calls.dialler.passes import run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import run_sweep
from calls.models import Call
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import CONTACT_CLAIMED, PausedThread, until
from calls.tests.support.factories import CALLER_ID, PHONE, backdate_attempts, cancel, checked_counters
from calls.tests.support.provider import Answer

pytestmark = pytest.mark.django_db(transaction=True)


# The request


def test_a_contact_is_claimed_and_called_and_its_call_is_recorded(harbour, ultravox):
    batch = harbour.batch(queued=1)

    assert place_next_call(batch) is DialOutcome.PLACED

    contact, call = batch.contacts.get(), Call.objects.get()
    assert (contact.status, contact.attempts, contact.call_id) == (ContactStatus.IN_PROGRESS, 1, call.pk)
    assert (call.agency_id, call.batch_id, call.contact_id) == (batch.agency_id, batch.pk, contact.pk)
    assert (call.from_number, call.to_number, call.direction) == (CALLER_ID, PHONE, "outbound")
    assert list(ultravox.calls) == [call.ultravox_call_id]
    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}


def test_the_request_identifies_the_attempt_and_all_metadata_values_are_strings(harbour, ultravox):
    batch = harbour.batch(queued=1)
    custom_data = {"policy": "A-17", "due": 120.5, "tags": ["vip"], "none": None, "ultravox.sip": "x"}
    batch.contacts.update(custom_data=custom_data | {"batch_id": "x", "contact_id": "x", "attempt": "x"})

    place_next_call(batch)

    (asked,) = ultravox.asked
    assert asked.metadata == {
        "policy": "A-17",
        "due": "120.5",
        "tags": '["vip"]',
        "none": "null",
        "batch_id": str(batch.pk),
        "contact_id": str(batch.contacts.get().pk),
        "attempt": "1",
    }


@pytest.mark.parametrize(
    "value",
    ["null", "[1]", '"text"', "[" * 5000 + "]" * 5000, f'{{"n": {"9" * 5000}, "a": 1e-400}}'],
    ids=["null", "array", "string", "nested", "numbers"],
)
def test_a_contact_is_called_whatever_another_service_stored_as_its_custom_data(harbour, ultravox, value):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE campaign_contacts SET custom_data = %s::jsonb", [value])

    assert place_next_call(batch) is DialOutcome.PLACED
    assert ultravox.asked[0].metadata["contact_id"] == str(batch.contacts.get().pk)
    assert set(map(type, ultravox.asked[0].metadata.values())) == {str}


def test_the_claim_is_committed_before_the_request_is_sent(harbour, ultravox):
    batch = harbour.batch(queued=1)
    ultravox.may_answer.clear()
    dialling = PausedThread(lambda: place_next_call(batch))
    dialling.start()
    until(lambda: ultravox.asked)

    assert checked_counters(batch) == {"total_contacts": 1, "in_progress": 1}
    assert not connection.in_atomic_block
    ultravox.may_answer.set()
    assert dialling.release() is DialOutcome.PLACED


def test_no_database_connection_is_held_while_the_provider_answers(harbour, ultravox):
    ultravox.may_answer.clear()
    batch = harbour.batch(queued=3)
    pool = connection.pool
    connection.close()
    passing = PausedThread(run_pass)
    passing.start()
    until(lambda: len(ultravox.asked) == 3)
    until(lambda: pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"])
    assert not Call.objects.exists()
    ultravox.may_answer.set()

    assert passing.release().calls_initiated == 3
    assert checked_counters(batch) == {"total_contacts": 3, "in_progress": 3}


def test_no_call_is_placed_inside_a_transaction(harbour, ultravox):
    batch = harbour.batch(queued=1)
    with pytest.raises(RuntimeError), transaction.atomic():
        place_next_call(batch)

    assert ultravox.asked == []


@pytest.mark.parametrize("status", [*BatchStatus])
def test_calls_are_placed_only_in_a_processing_batch(harbour, ultravox, status):
    batch = harbour.batch(status, queued=1) if status != BatchStatus.COMPLETED else harbour.batch(status)

    assert (place_next_call(batch) is DialOutcome.PLACED) is (status == BatchStatus.PROCESSING)
    assert len(ultravox.asked) == (status == BatchStatus.PROCESSING)


def test_a_worker_suspended_after_its_claim_sends_no_request(harbour, ultravox, settings, monkeypatch):
    batch = harbour.batch(queued=1)
    call_request = placing._call_request
    settings.ULTRAVOX_TIMEOUT = 0.1
    monkeypatch.setattr(placing, "_call_request", lambda *claimed: time.sleep(0.2) or call_request(*claimed))

    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    assert (ultravox.asked, checked_counters(batch)) == ([], {"total_contacts": 1, "queued": 1})


def test_a_worker_suspended_before_its_claim_was_committed_sends_no_request(harbour, ultravox, settings):
    settings.ULTRAVOX_TIMEOUT = 0.1
    batch = harbour.batch(queued=1)
    with PausedThread(lambda: place_next_call(batch), after=CONTACT_CLAIMED) as dialling:
        time.sleep(0.2)

    assert (dialling.outcome, ultravox.asked) == (DialOutcome.NOTHING_CLAIMED, [])
    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}


def test_no_phone_number_is_logged(harbour, ultravox, caplog):
    ultravox.next_answers.extend(
        [Answer(422, places_call=False), Answer(500, places_call=False), Answer(429, places_call=False)]
    )
    batch = harbour.batch(queued=4)

    with caplog.at_level("DEBUG"):
        for _ in range(4):
            place_next_call(batch)
        backdate_attempts(batch, timedelta(hours=2))
        run_sweep()

    assert "outcome=failed" in caplog.text
    assert PHONE not in caplog.text
    assert CALLER_ID not in caplog.text


# The answer


@pytest.mark.parametrize(("left", "status"), [(2, ContactStatus.QUEUED), (1, ContactStatus.FAILED)])
def test_a_contact_whose_call_is_refused_is_queued_again_while_attempts_are_left(harbour, ultravox, left, status):
    ultravox.default_answer = Answer(422, places_call=False)
    batch = harbour.batch(queued=1, completed=1)
    batch.contacts.filter(status=ContactStatus.QUEUED).update(max_attempts=left)

    assert place_next_call(batch) is DialOutcome.FAILED

    contact = batch.contacts.get(attempts=1)
    note = "Not placed: HTTP 422: Unprocessable Entity"
    assert (contact.status, contact.outcome, contact.outcome_notes) == (status, "not_placed", note)
    assert (contact.completed_at is None) is (status == ContactStatus.QUEUED)
    assert checked_counters(batch) == {"total_contacts": 2, "completed": 1, str(status): 1}


def test_a_released_claim_leaves_the_count_of_earlier_attempts_unchanged(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    batch.contacts.get().record_failed(outcome="no_answer")
    ultravox.default_answer = Answer(429, headers={"Retry-After": "0"}, places_call=False)

    assert place_next_call(batch) is DialOutcome.DEFERRED
    assert (batch.contacts.get().attempts, batch.contacts.get().status) == (1, ContactStatus.QUEUED)
    assert not batch.contacts.with_call_in_progress().exists()


# The answer to a request whose batch was cancelled while the provider was answering


@pytest.mark.parametrize("status", [422, 429, 503])
def test_a_contact_whose_call_is_refused_after_the_cancel_is_skipped(harbour, ultravox, status):
    ultravox.default_answer = Answer(status, places_call=False)
    ultravox.may_answer.clear()
    batch = harbour.batch(queued=3)
    dialling = PausedThread(lambda: place_next_call(batch))
    dialling.start()
    until(lambda: ultravox.asked)

    result = cancel(batch)
    ultravox.may_answer.set()
    dialling.release()

    assert (result.contacts_skipped, result.in_progress) == (2, 1)
    assert set(batch.contacts.values_list("status", "outcome_notes")) == {("skipped", "Batch cancelled")}
    assert checked_counters(batch) == {"total_contacts": 3, "skipped": 3}


def test_a_call_accepted_after_the_cancel_continues_and_is_not_retried(harbour, ultravox):
    ultravox.may_answer.clear()
    batch = harbour.batch(queued=3)
    dialling = PausedThread(lambda: place_next_call(batch))
    dialling.start()
    until(lambda: ultravox.asked)
    cancel(batch)
    batch.refresh_from_db()
    cancelled = (batch.status, batch.completed_at)
    ultravox.may_answer.set()

    assert dialling.release() is DialOutcome.PLACED
    batch.contacts.get(attempts=1).record_failed(outcome="no_answer")

    assert checked_counters(batch) == {"total_contacts": 3, "failed": 1, "skipped": 2}
    batch.refresh_from_db()
    assert (batch.status, batch.completed_at) == cancelled
