"""
No contact is called again after a call that was not recorded, when an event of that call was delivered.

Neither in its batch nor in a replacement of its batch.
"""

import pytest

from calls.dialler import placing, sweep
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import SweepResult, run_sweep
from calls.exceptions import NoContactsToReplace
from calls.models import Agency, Call
from calls.providers.ultravox import UltravoxProvider
from calls.statuses import ContactStatus
from calls.tests.support.attempts import LONG_AGO, claim_and_die, deliver_event
from calls.tests.support.factories import backdate_attempts, cancel, checked_counters
from calls.tests.support.provider import Answer
from calls.tests.support.replacements import numbers_of, replace

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_contact_that_was_called_is_not_called_again_when_the_provider_has_deleted_the_call(harbour, ultravox):
    ultravox.next_answers.append(Answer(drops_connection=True))
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    ((call_id, call),) = ultravox.calls.items()
    deliver_event(batch.contacts.get(), call_id=call_id, metadata=call["metadata"])
    ultravox.calls.clear()
    backdate_attempts(batch, LONG_AGO)

    assert run_sweep() == SweepResult(recorded=1)
    contact = batch.contacts.get()
    assert (contact.status, contact.outcome, contact.attempts) == (ContactStatus.COMPLETED, "answered", 1)
    assert Call.objects.get().ultravox_call_id == call_id
    assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
    assert len(ultravox.asked) == 1


def test_control_without_the_events_the_contact_is_called_again(harbour, ultravox, monkeypatch):
    batch = harbour.batch(queued=1)
    deliver_event(claim_and_die(batch))
    monkeypatch.setattr(sweep, "find_unrecorded_call", lambda *args, **kwargs: None)
    monkeypatch.setattr(placing, "find_unrecorded_call", lambda *args, **kwargs: None)

    assert run_sweep() == SweepResult(given_back=1)
    assert place_next_call(batch) is DialOutcome.PLACED


def test_a_call_that_was_not_answered_is_tried_again_and_counts(harbour, ultravox):
    batch = harbour.batch(queued=1)
    deliver_event(claim_and_die(batch), joined=None, endReason="unjoined")

    assert run_sweep() == SweepResult(recorded=1)
    contact = batch.contacts.get()
    assert (contact.status, contact.outcome, contact.attempts) == (ContactStatus.QUEUED, "no_answer", 1)


def test_the_call_of_a_cancelled_batch_is_recorded_from_its_event(harbour, ultravox):
    batch = harbour.batch(queued=1)
    contact = claim_and_die(batch)
    cancel(batch)
    deliver_event(contact)

    assert run_sweep() == SweepResult(recorded=1)
    assert checked_counters(batch) == {"total_contacts": 1, "completed": 1}


def test_the_provider_is_not_needed_when_an_event_was_delivered(harbour, ultravox):
    batch = harbour.batch(queued=1)
    deliver_event(claim_and_die(batch))
    ultravox.listed = "<html>"

    assert run_sweep() == SweepResult(recorded=1)


def test_an_event_that_arrives_while_the_provider_is_asked_prevents_another_call(harbour, ultravox, monkeypatch):
    batch = harbour.batch(queued=1)
    contact = claim_and_die(batch)
    monkeypatch.setattr(UltravoxProvider, "find", lambda *args, **kwargs: deliver_event(contact))

    assert run_sweep() == SweepResult(recorded=1)


@pytest.mark.parametrize("unclear", [False, True], ids=["released", "rejected"])
def test_an_event_that_arrives_after_the_contact_was_given_back_prevents_another_call(harbour, ultravox, unclear):
    batch = harbour.batch(queued=1)
    contact = claim_and_die(batch)
    if unclear:
        contact.refresh_from_db()
        contact.record_unclear("Unclear: HTTP 500")
    assert run_sweep() == SweepResult(given_back=1)
    batch.contacts.update(last_attempt_at=None)
    deliver_event(contact)

    assert place_next_call(batch) is DialOutcome.ALREADY_CALLED
    assert ultravox.asked == []
    assert batch.contacts.get().status == ContactStatus.COMPLETED
    assert Call.objects.get().contact_id == contact.pk
    assert checked_counters(batch) == {"total_contacts": 1, "completed": 1}


def test_an_event_prevents_another_call_when_the_provider_took_a_call_and_said_that_it_was_busy(harbour, ultravox):
    ultravox.next_answers.append(Answer(503, headers={"Retry-After": "0"}))
    batch = harbour.batch(queued=1)
    assert place_next_call(batch) is DialOutcome.DEFERRED
    ((call_id, call),) = ultravox.calls.items()
    deliver_event(batch.contacts.get(), call_id=call_id, metadata=call["metadata"])
    Agency.objects.update(dial_after=None)

    assert place_next_call(batch) is DialOutcome.ALREADY_CALLED
    assert len(ultravox.asked) == 1


def test_the_event_of_a_call_that_was_recorded_is_no_evidence_for_a_later_attempt(harbour, ultravox):
    batch = harbour.batch(queued=1)
    place_next_call(batch)
    deliver_event(batch.contacts.get(), call_id=Call.objects.get().ultravox_call_id, endReason="system_error")
    # Another service starts again to count the attempts.
    batch.contacts.update(attempts=0, last_attempt_at=None)
    claim_and_die(batch)
    ultravox.calls.clear()

    assert run_sweep() == SweepResult(given_back=1)


@pytest.mark.parametrize(
    "event",
    [
        {"attempt": "2"},
        {"attempt": None, "created": "2026-01-31T09:30:00Z"},
        {"metadata": {"attempt": "1"}},
        {"metadata": {"contact_id": "not a UUID", "attempt": "1"}},
        {"metadata": None},
        {"call_id": ""},
    ],
    ids=str,
)
def test_an_event_of_another_attempt_or_without_a_contact_or_call_is_no_evidence(harbour, ultravox, event):
    batch = harbour.batch(queued=1)
    deliver_event(claim_and_die(batch), **event)

    assert run_sweep() == SweepResult(given_back=1)


def test_an_event_of_another_agency_is_no_evidence(harbour, bluebell, ultravox):
    batch = harbour.batch(queued=1)
    deliver_event(claim_and_die(batch), agency=bluebell.agency)

    assert run_sweep() == SweepResult(given_back=1)


@pytest.mark.parametrize("created", ["2999-01-01T00:00:00Z", "soon"])
def test_an_event_without_an_attempt_is_evidence_unless_its_call_is_older_than_the_claim(harbour, ultravox, created):
    batch = harbour.batch(queued=1)
    deliver_event(claim_and_die(batch), attempt=None, created=created)

    assert run_sweep() == SweepResult(recorded=1)


# Replacements


def deliver_event_of_only_call(batch, ultravox):
    ((call_id, call),) = ultravox.calls.items()
    deliver_event(batch.contacts.get(), call_id=call_id, metadata=call["metadata"])


def test_a_contact_with_an_event_whose_claim_was_released_is_not_in_the_replacement(harbour, ultravox):
    batch = harbour.batch(queued=1)
    contact = claim_and_die(batch)
    assert run_sweep() == SweepResult(given_back=1)
    deliver_event(contact)
    cancel(batch)

    with pytest.raises(NoContactsToReplace):
        replace(batch)


@pytest.mark.parametrize("during_the_call", [False, True], ids=["cancelled later", "cancelled during the call"])
def test_a_contact_whose_call_the_provider_took_and_said_that_it_was_busy_is_not_in_the_replacement(
    harbour, ultravox, during_the_call
):
    ultravox.next_answers.append(Answer(503, headers={"Retry-After": "0"}))
    batch = harbour.batch(queued=1)
    on_claim = (lambda: cancel(batch)) if during_the_call else None
    assert place_next_call(batch, on_claim=on_claim) is DialOutcome.DEFERRED
    deliver_event_of_only_call(batch, ultravox)
    if not during_the_call:
        cancel(batch)

    with pytest.raises(NoContactsToReplace):
        replace(batch)


def test_other_contacts_are_in_the_replacement(harbour, ultravox):
    batch = harbour.batch(queued=3)
    contact = claim_and_die(batch)
    assert run_sweep() == SweepResult(given_back=1)
    deliver_event(contact)
    cancel(batch)

    others = batch.contacts.exclude(pk=contact.pk).values_list("phone_number", flat=True)
    assert set(numbers_of(replace(batch))) == set(others)


@pytest.mark.parametrize("event", [{"call_id": ""}, {"metadata": None}], ids=str)
def test_a_contact_with_an_event_without_a_call_or_contact_is_in_the_replacement(harbour, ultravox, event):
    batch = harbour.batch(queued=1)
    deliver_event(batch.contacts.get(), **event)
    cancel(batch)

    assert replace(batch).total_contacts == 1


def test_an_event_of_another_agency_keeps_no_contact_out_of_the_replacement(harbour, bluebell, ultravox):
    batch = harbour.batch(queued=1)
    deliver_event(batch.contacts.get(), agency=bluebell.agency)
    cancel(batch)

    assert replace(batch).total_contacts == 1
