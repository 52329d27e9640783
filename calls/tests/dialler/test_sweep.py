"""run_sweep(): what the sweep does about contacts whose call has no recorded result."""

import time
from datetime import timedelta

import pytest
from django.db import connection

from calls.dialler import sweep
from calls.dialler.claims import claim_next_contact
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import SweepResult, run_sweep
from calls.models import Call, CampaignContact
from calls.providers.base import ProviderUnavailable
from calls.providers.ultravox import UltravoxProvider
from calls.statuses import ContactStatus
from calls.tests.support.attempts import LONG_AGO, claim_and_die
from calls.tests.support.factories import backdate_attempts, cancel, checked_counters, plain_connection
from calls.tests.support.provider import Answer

pytestmark = pytest.mark.django_db(transaction=True)


# No call was recorded: the answer was unclear


@pytest.mark.parametrize("answer", [Answer(500), Answer(201, body="{}"), Answer(drops_connection=True)])
def test_a_contact_stays_in_progress_after_an_unclear_answer_until_the_sweep_finds_its_call(harbour, ultravox, answer):
    ultravox.next_answers.append(answer)
    batch = harbour.batch(queued=1)

    assert place_next_call(batch) is DialOutcome.FAILED
    assert batch.contacts.get().status == ContactStatus.IN_PROGRESS
    assert batch.contacts.get().outcome_notes.startswith("Unclear: ")
    # The sweep does not ask at once, because the request may not have reached the provider yet.
    assert run_sweep() == SweepResult()

    backdate_attempts(batch, LONG_AGO)
    assert run_sweep() == SweepResult(recorded=1)
    assert Call.objects.get().ultravox_call_id in ultravox.calls
    assert (batch.contacts.get().call_id, batch.contacts.get().outcome_notes) == (Call.objects.get().pk, None)
    assert len(ultravox.asked) == 1


def test_an_attempt_with_an_unclear_answer_counts_when_the_provider_has_no_call(harbour, ultravox):
    ultravox.default_answer = Answer(500, places_call=False)
    batch = harbour.batch(queued=1)
    batch.contacts.update(max_attempts=2)

    for swept, status in ((1, ContactStatus.QUEUED), (2, ContactStatus.FAILED)):
        assert place_next_call(batch) is DialOutcome.FAILED
        backdate_attempts(batch, LONG_AGO)
        assert run_sweep() == SweepResult(given_back=1)
        assert (batch.contacts.get().attempts, batch.contacts.get().status) == (swept, status)
    assert batch.contacts.get().outcome_notes == "Unclear: HTTP 500"
    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED


# No call was recorded: the worker died


def test_a_claim_is_released_and_the_contact_called_once_when_the_worker_died_before_the_request(harbour, ultravox):
    batch = harbour.batch(queued=1)
    batch.contacts.update(max_attempts=1)
    claim_and_die(batch)

    assert run_sweep() == SweepResult(given_back=1)
    assert (batch.contacts.get().attempts, batch.contacts.get().status) == (0, ContactStatus.QUEUED)
    assert place_next_call(batch) is DialOutcome.PLACED
    assert len(ultravox.asked) == 1


def test_a_contact_is_not_called_again_when_the_worker_died_after_the_request(harbour, ultravox):
    batch = harbour.batch(queued=1)
    contact = claim_and_die(batch)
    call = ultravox.add_call({"metadata": {"contact_id": str(contact.pk), "attempt": "1"}})

    assert run_sweep() == SweepResult(recorded=1)
    assert Call.objects.get().ultravox_call_id == call["callId"]
    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    assert ultravox.asked == []


def test_no_claim_is_released_while_the_provider_cannot_answer(harbour, ultravox):
    batch = harbour.batch(queued=1)
    claim_and_die(batch)
    ultravox.listed = "<html>"

    assert run_sweep() == SweepResult(unclear=1)
    assert batch.contacts.get().status == ContactStatus.IN_PROGRESS


def test_the_sweep_frees_the_slot_of_a_dead_worker(harbour, ultravox):
    batch = harbour.batch(queued=2)
    type(batch).objects.update(max_concurrent=1)
    claim_and_die(batch)

    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    run_sweep()
    assert place_next_call(batch) is DialOutcome.PLACED


def test_a_contact_is_skipped_when_the_worker_died_and_the_batch_was_cancelled(harbour, ultravox):
    batch = harbour.batch(queued=2)
    claim_and_die(batch)
    cancel(batch)

    assert run_sweep() == SweepResult(given_back=1)
    assert set(batch.contacts.values_list("status", "outcome_notes")) == {("skipped", "Batch cancelled")}
    assert checked_counters(batch) == {"total_contacts": 2, "skipped": 2}


# The end of a call was not recorded


def test_a_call_whose_end_was_never_delivered_is_ended_by_the_sweep(harbour, ultravox):
    batch = harbour.batch(queued=2)
    place_next_call(batch)
    place_next_call(batch)
    first, second = Call.objects.order_by("created_at")
    ultravox.end_call(ultravox.calls[first.ultravox_call_id])
    backdate_attempts(batch, LONG_AGO)

    assert run_sweep() == SweepResult(ended=1)
    assert checked_counters(batch) == {"total_contacts": 2, "in_progress": 1, "completed": 1}
    assert CampaignContact.objects.get(pk=second.contact_id).status == ContactStatus.IN_PROGRESS


def test_a_call_to_an_invalid_number_whose_end_was_never_delivered_is_not_tried_again(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    (call,) = ultravox.calls.values()
    ultravox.end_call(call, "unjoined", joined=False)
    call["sipDetails"] = {"billedDuration": None, "terminationReason": "SIP_TERMINATION_INVALID_NUMBER"}
    backdate_attempts(batch, LONG_AGO)

    assert run_sweep() == SweepResult(ended=1)
    assert Call.objects.get().end_reason == "SIP_TERMINATION_INVALID_NUMBER"
    assert (batch.contacts.get().status, batch.contacts.get().attempts) == (ContactStatus.FAILED, 1)


# Calls are given up after a day, so that their slots become free


def test_a_call_that_the_provider_does_not_know_is_given_up_after_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    ultravox.calls.clear()

    backdate_attempts(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult(unclear=1)
    assert batch.contacts.get().status == ContactStatus.IN_PROGRESS
    backdate_attempts(batch, timedelta(hours=2))
    assert run_sweep() == SweepResult(ended=1)
    assert (batch.contacts.get().status, batch.contacts.get().outcome) == (ContactStatus.FAILED, "unknown")
    assert checked_counters(batch) == {"total_contacts": 1, "failed": 1}


def test_a_call_that_does_not_end_is_given_up_after_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)

    backdate_attempts(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult()
    backdate_attempts(batch, timedelta(hours=2))
    assert run_sweep() == SweepResult(ended=1)
    assert (batch.contacts.get().status, batch.contacts.get().outcome) == (ContactStatus.FAILED, "unknown")


def test_a_call_whose_row_another_service_deleted_is_given_up_after_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    Call.objects.all().delete()

    backdate_attempts(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult(unclear=1)
    backdate_attempts(batch, timedelta(hours=2))
    assert run_sweep() == SweepResult(ended=1)
    assert (batch.contacts.get().status, batch.contacts.get().outcome) == (ContactStatus.FAILED, "unknown")
    assert len(ultravox.asked) == 1


def test_a_claim_is_given_up_after_a_day_when_the_provider_cannot_answer(harbour, ultravox):
    batch = harbour.batch(queued=1)
    claim_and_die(batch)
    ultravox.listed = "<html>"

    backdate_attempts(batch, timedelta(hours=23))
    assert run_sweep() == SweepResult(ended=1)
    assert (batch.contacts.get().status, batch.contacts.get().outcome) == (ContactStatus.FAILED, "unknown")
    assert ultravox.asked == []


def test_a_call_whose_end_cannot_be_stored_is_given_up_after_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    ultravox.end_call(next(iter(ultravox.calls.values())))
    backdate_attempts(batch, timedelta(hours=25))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE call_webhook_events ADD CONSTRAINT nothing CHECK (event = '') NOT VALID")
    try:
        assert run_sweep() == SweepResult(ended=1)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE call_webhook_events DROP CONSTRAINT nothing")
    assert (batch.contacts.get().status, batch.contacts.get().outcome) == (ContactStatus.FAILED, "unknown")


def test_a_contact_claimed_by_another_service_that_kept_the_earlier_call_is_given_up_after_a_day(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    ultravox.end_call(next(iter(ultravox.calls.values())))
    with plain_connection() as plain:
        plain.execute("UPDATE campaign_contacts SET attempts = 2, last_attempt_at = now() - interval '25 hours'")

    assert run_sweep() == SweepResult(ended=1)
    assert (batch.contacts.get().status, batch.contacts.get().outcome) == (ContactStatus.FAILED, "unknown")


# The other contacts are settled despite a problem with one contact


def test_the_other_contacts_are_settled_despite_an_unknown_call(harbour, ultravox, monkeypatch):
    monkeypatch.setattr(sweep, "MAX_CONTACTS", 1)
    batch = harbour.batch(queued=2)
    place_next_call(batch)
    place_next_call(batch)
    first, second = Call.objects.order_by("created_at")
    del ultravox.calls[first.ultravox_call_id]
    ultravox.end_call(ultravox.calls[second.ultravox_call_id])
    backdate_attempts(batch, LONG_AGO)

    # Each sweep asks about one of the two, chosen at random.
    assert {run_sweep() for _ in range(50)} == {SweepResult(ended=1), SweepResult(unclear=1)}


def test_the_other_contacts_are_settled_despite_a_slow_list_of_calls(harbour, ultravox, monkeypatch):
    batch = harbour.batch(queued=2)
    place_next_call(batch)
    ultravox.end_call(next(iter(ultravox.calls.values())))
    claim_next_contact(batch)
    backdate_attempts(batch, LONG_AGO)
    monkeypatch.setattr(sweep, "SWEEP_SECONDS", 0.2)

    def slow(*args, **kwargs):
        time.sleep(0.2)
        raise ProviderUnavailable

    monkeypatch.setattr(UltravoxProvider, "find", slow)
    with monkeypatch.context() as unshuffled:
        unshuffled.setattr(sweep.random, "shuffle", lambda questions: None)
        assert run_sweep() == SweepResult(unclear=1)

    assert any(run_sweep().ended for _ in range(50))


def test_the_other_contacts_are_settled_despite_an_unexpected_error(harbour, ultravox, monkeypatch, caplog):
    batch = harbour.batch(queued=2)
    place_next_call(batch)
    ultravox.end_call(next(iter(ultravox.calls.values())))
    claim_next_contact(batch)
    backdate_attempts(batch, LONG_AGO)
    monkeypatch.setattr(UltravoxProvider, "find", lambda *args, **kwargs: 1 / 0)

    assert run_sweep() == SweepResult(ended=1, unclear=1)
    assert "ZeroDivisionError" in caplog.text


# Batches of another dialler


def test_the_claims_of_another_dialler_are_left_alone(harbour, ultravox):
    batch = harbour.batch(queued=1)
    claim_and_die(batch)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_sweep() == SweepResult()
    assert batch.contacts.get().status == ContactStatus.IN_PROGRESS


def test_an_unclear_placement_is_settled_although_another_dialler_has_the_batch_by_now(harbour, ultravox):
    batch = harbour.batch(queued=1)
    claim_next_contact(batch).record_unclear("Unclear: HTTP 500")
    backdate_attempts(batch, LONG_AGO)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_sweep() == SweepResult(given_back=1)


def test_our_own_call_is_ended_although_another_dialler_holds_the_batch(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    ultravox.end_call(next(iter(ultravox.calls.values())))
    backdate_attempts(batch, LONG_AGO)
    with plain_connection() as plain:
        plain.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert run_sweep() == SweepResult(ended=1)
    assert batch.contacts.get().status == ContactStatus.COMPLETED
