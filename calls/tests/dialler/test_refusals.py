"""Refusals that are not about one contact: the batch is paused, and no attempt of its contacts is used up."""

import json

import pytest
from django.db.models import Max

from calls.dialler import passes
from calls.dialler.claims import claim_next_contact
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import run_sweep
from calls.models import CallBatch, CampaignContact
from calls.models.refusals import STREAK_LENGTH
from calls.statuses import UNCLEAR, BatchStatus, ContactStatus, not_placed_note
from calls.tests.support.attempts import LONG_AGO
from calls.tests.support.concurrency import PausedThread, until
from calls.tests.support.factories import CALLER_ID, PHONE, backdate_attempts, cancel, checked_counters, pause, resume
from calls.tests.support.provider import Answer

pytestmark = pytest.mark.django_db(transaction=True)

NO_CREDIT = "HTTP 402: No credit."
ROW_422 = "5 calls in a row failed. Not placed: HTTP 422: Unprocessable Entity"


def refusal(status, **body):
    return Answer(status, json.dumps(body) if body else None, places_call=False)


def place(batch, times):
    return [place_next_call(batch) for _ in range(times)]


def state_of(batch):
    batch.refresh_from_db()
    return batch.status, batch.error_message


def attempts_of(batch):
    """Return how many contacts have each status and number of attempts."""
    rows = list(batch.contacts.values_list("status", "attempts"))
    return {row: rows.count(row) for row in rows}


def assert_given_back(batch, contacts, reason):
    """Assert that all contacts are queued without an attempt, and that the batch is paused for this reason."""
    assert attempts_of(batch) == {(ContactStatus.QUEUED, 0): contacts}
    assert not batch.contacts.exclude(completed_at=None, outcome_notes=None).exists()
    assert checked_counters(batch) == {"total_contacts": contacts, "queued": contacts}
    assert state_of(batch) == (BatchStatus.PAUSED, f"Paused by the dialler: {reason}")


# The account or the agent is refused


def test_a_deleted_agent_pauses_the_batch_and_uses_up_no_contact(harbour, ultravox):
    ultravox.default_answer = refusal(404, detail="No Agent matches the given query.")
    batch = harbour.batch(queued=100)
    batch.contacts.update(max_attempts=1)

    assert run_pass() == PassResult(1, 0, 0)

    assert_given_back(batch, 100, "HTTP 404: No Agent matches the given query.")
    # Requests that were sent at the same time got the same answer. After that no more were sent.
    asked = len(ultravox.asked)
    assert 1 <= asked <= passes.MAX_THREADS
    assert run_pass() == PassResult(0, 0, 0)
    assert len(ultravox.asked) == asked


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_the_first_refusal_pauses_the_batch(harbour, ultravox, status):
    ultravox.default_answer = refusal(status, detail="No.")
    batch = harbour.batch(queued=3)

    assert place(batch, 2) == [DialOutcome.PAUSED, DialOutcome.NOTHING_CLAIMED]
    assert_given_back(batch, 3, f"HTTP {status}: No.")
    batch.refresh_from_db()
    assert batch.paused_at is not None
    assert batch.dial_after is None


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_refused_account_pauses_the_batch_even_after_accepted_calls(harbour, ultravox, status):
    ultravox.next_answers.extend([Answer(), Answer(), refusal(status)])
    batch = harbour.batch(queued=5)

    assert place(batch, 3) == [DialOutcome.PLACED, DialOutcome.PLACED, DialOutcome.PAUSED]
    assert attempts_of(batch) == {(ContactStatus.IN_PROGRESS, 1): 2, (ContactStatus.QUEUED, 0): 3}


def test_an_earlier_attempt_of_the_contact_still_counts(harbour, ultravox):
    ultravox.default_answer = refusal(402)
    batch = harbour.batch(queued=1)
    claim_next_contact(batch).record_failed(outcome="no_answer")

    assert place(batch, 1) == [DialOutcome.PAUSED]
    assert attempts_of(batch) == {(ContactStatus.QUEUED, 1): 1}


def test_the_history_and_the_log_have_the_reason(harbour, ultravox, caplog):
    ultravox.default_answer = refusal(402, detail=f"No credit for {PHONE} or ada@example.org.")
    batch = harbour.batch(queued=1)

    with caplog.at_level("DEBUG"):
        place(batch, 1)

    event = batch.events.latest("pk")
    reason = "HTTP 402: No credit for *** or ***"
    assert (event.status, event.pgh_context) == (BatchStatus.PAUSED, {"via": "dialler", "reason": reason})
    assert event.error_message == f"Paused by the dialler: {reason}"
    assert "outcome=paused call=HTTP 402: No credit" in caplog.text
    assert f"outcome=paused reason={reason}" in caplog.text
    for secret in (PHONE, CALLER_ID, "ada@"):
        assert secret not in caplog.text


def test_a_resumed_batch_is_dialled_again(harbour, ultravox):
    ultravox.next_answers.append(refusal(402))
    batch = harbour.batch(queued=2)
    place(batch, 1)

    resume(batch)

    assert state_of(batch) == (BatchStatus.PROCESSING, None)
    assert place(batch, 2) == [DialOutcome.PLACED, DialOutcome.PLACED]
    assert attempts_of(batch) == {(ContactStatus.IN_PROGRESS, 1): 2}


def test_a_batch_with_another_agent_is_still_dialled(harbour, ultravox):
    first, second = harbour.batch(queued=2), harbour.batch(queued=2)
    ultravox.next_answers.append(refusal(404))

    assert (place(first, 1), place(second, 1)) == ([DialOutcome.PAUSED], [DialOutcome.PLACED])
    assert run_pass() == PassResult(1, 1, 0)
    assert checked_counters(second) == {"total_contacts": 2, "in_progress": 2}


# Forbidden: the account, or one destination


def test_a_forbidden_destination_counts_for_its_contact_alone_while_other_calls_are_accepted(harbour, ultravox):
    ultravox.next_answers.extend([Answer(), *[refusal(403)] * 4, Answer()])
    batch = harbour.batch(queued=6)

    assert place(batch, 6) == [DialOutcome.PLACED, *[DialOutcome.FAILED] * 4, DialOutcome.PLACED]
    assert attempts_of(batch) == {(ContactStatus.IN_PROGRESS, 1): 2, (ContactStatus.QUEUED, 1): 4}
    assert set(batch.contacts.filter(call_id=None).values_list("outcome", "outcome_notes")) == {
        ("not_placed", "Not placed: HTTP 403: Forbidden")
    }
    assert state_of(batch) == (BatchStatus.PROCESSING, None)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_five_forbidden_calls_in_a_row_pause_the_batch_and_are_given_back(harbour, ultravox, max_attempts):
    ultravox.next_answers.append(Answer())
    ultravox.default_answer = refusal(403)
    batch = harbour.batch(queued=10)
    batch.contacts.update(max_attempts=max_attempts)

    assert place(batch, 7) == [
        *(DialOutcome.PLACED, *[DialOutcome.FAILED] * 4),
        *(DialOutcome.PAUSED, DialOutcome.NOTHING_CLAIMED),
    ]
    assert attempts_of(batch) == {(ContactStatus.IN_PROGRESS, 1): 1, (ContactStatus.QUEUED, 0): 9}
    assert checked_counters(batch) == {"total_contacts": 10, "queued": 9, "in_progress": 1}
    assert state_of(batch) == (BatchStatus.PAUSED, "Paused by the dialler: HTTP 403: Forbidden")


def test_a_call_that_has_ended_shows_that_the_account_is_allowed_to_call(harbour, ultravox):
    batch = harbour.batch(queued=3)
    place(batch, 1)
    batch.contacts.get(status=ContactStatus.IN_PROGRESS).record_failed(outcome="no_answer")
    ultravox.default_answer = refusal(403)

    assert place(batch, 1) == [DialOutcome.FAILED]


def test_a_forbidden_number_counts_for_its_contact_alone(harbour, ultravox):
    ultravox.default_answer = refusal(403, detail=f"{PHONE} is in a blocked country.")
    batch = harbour.batch(queued=7)
    batch.contacts.update(phone_number=PHONE)

    assert place(batch, 7) == [DialOutcome.FAILED] * 7
    assert attempts_of(batch) == {(ContactStatus.QUEUED, 1): 7}
    assert set(batch.contacts.values_list("outcome_notes", flat=True)) == {
        "Number refused: HTTP 403: *** is in a blocked country."
    }


# Five in a row


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize("max_attempts", [1, 3])
def test_five_rejections_in_a_row_for_the_same_reason_pause_the_batch(harbour, ultravox, status, max_attempts):
    ultravox.default_answer = refusal(status, detail="The caller id is not verified.")
    batch = harbour.batch(queued=100)
    batch.contacts.update(max_attempts=max_attempts)

    place(batch, 4)
    assert checked_counters(batch).get("failed", 0) == (4 if max_attempts == 1 else 0)
    place(batch, 2)

    assert len(ultravox.asked) == STREAK_LENGTH
    words = f"HTTP {status}: The caller id is not verified."
    assert_given_back(batch, 100, f"5 calls in a row failed. Not placed: {words}")


def test_rejections_of_a_pass_that_sends_several_requests_at_once_use_up_no_contact(harbour, ultravox):
    ultravox.default_answer = refusal(422)
    batch = harbour.batch(queued=100)
    batch.contacts.update(max_attempts=1)

    run_pass()

    assert_given_back(batch, 100, ROW_422)


@pytest.mark.parametrize(
    ("status", "words"),
    [(422, "Request {} failed."), (403, "Account suspended, request {}."), (500, "{}")],
    ids=["a refusal", "a refusal of the batch", "an unclear answer"],
)
def test_a_late_refusal_for_the_same_reason_does_not_count_after_the_pause(harbour, ultravox, status, words):
    batch = harbour.batch(queued=8)
    batch.contacts.update(max_attempts=1)
    contacts = [claim_next_contact(batch) for _ in range(8)]

    for number, contact in enumerate(contacts):
        reason = f"HTTP {status}: {words.format(f'req-{number}')}"
        if status == 403:
            contact.record_batch_refused(reason=reason, unless_others_accepted=True)
        else:
            contact.record_rejected(reason=f"{UNCLEAR}{reason}" if status == 500 else not_placed_note(reason))

    assert state_of(batch)[0] == BatchStatus.PAUSED
    assert attempts_of(batch) == {(ContactStatus.QUEUED, 0): 8}


def test_an_accepted_call_a_call_that_ended_or_another_reason_ends_the_row(harbour, ultravox):
    for interruption in (Answer(), refusal(400), refusal(422, to=["Not a number."])):
        batch = harbour.batch(queued=9)
        ultravox.next_answers.extend([*[refusal(422)] * 4, interruption, *[refusal(422)] * 4])

        place(batch, 9)

        assert state_of(batch) == (BatchStatus.PROCESSING, None)
        assert batch.contacts.filter(attempts=1).count() == 9


def test_a_call_whose_answer_is_unknown_does_not_end_the_row(harbour, ultravox):
    ultravox.next_answers.extend([*[refusal(422)] * 2, Answer(500), *[refusal(422)] * 3])
    batch = harbour.batch(queued=9)

    place(batch, 7)

    assert state_of(batch) == (BatchStatus.PAUSED, f"Paused by the dialler: {ROW_422}")
    assert attempts_of(batch) == {(ContactStatus.QUEUED, 0): 8, (ContactStatus.IN_PROGRESS, 1): 1}


def test_rejections_that_name_the_number_never_pause_the_batch(harbour, ultravox):
    ultravox.default_answer = refusal(400, to=["Enter a valid phone number."])
    batch = harbour.batch(queued=8)
    batch.contacts.update(max_attempts=1)

    place(batch, 8)

    assert checked_counters(batch) == {"total_contacts": 8, "failed": 8}
    assert set(batch.contacts.values_list("outcome_notes", flat=True)) == {
        "Number refused: HTTP 400: to: Enter a valid phone number."
    }


def test_rejections_in_another_batch_are_not_part_of_the_row(harbour, ultravox):
    ultravox.default_answer = refusal(422)
    first, second = harbour.batch(queued=4), harbour.batch(queued=4)

    place(first, 4)
    place(second, 4)

    assert (state_of(first)[0], state_of(second)[0]) == (BatchStatus.PROCESSING, BatchStatus.PROCESSING)


def test_after_a_resume_another_five_rejections_pause_the_batch_again(harbour, ultravox):
    ultravox.default_answer = refusal(422)
    batch = harbour.batch(queued=9)
    place(batch, 6)
    resume(batch)

    assert place(batch, 4) == [DialOutcome.FAILED] * 4
    assert state_of(batch) == (BatchStatus.PROCESSING, None)
    place(batch, 1)
    assert_given_back(batch, 9, ROW_422)


def test_earlier_attempts_of_contacts_in_the_row_still_count(harbour, ultravox):
    batch = harbour.batch(queued=5)
    place(batch, 5)
    for contact in batch.contacts.all():
        contact.record_failed(outcome="no_answer")
    latest = batch.contacts.aggregate(latest=Max("last_attempt_at"))["latest"]
    ultravox.default_answer = refusal(422)

    place(batch, 5)

    assert attempts_of(batch) == {(ContactStatus.QUEUED, 1): 5}
    # The pause between two attempts begins with the latest one, also if it does not count.
    assert batch.contacts.filter(last_attempt_at__gt=latest).count() == 5
    assert state_of(batch)[0] == BatchStatus.PAUSED


def test_a_contact_that_another_service_has_changed_since_is_not_given_back(harbour, ultravox):
    ultravox.default_answer = refusal(422)
    batch = harbour.batch(queued=9)
    batch.contacts.update(max_attempts=1)
    place(batch, 4)
    changed = batch.contacts.filter(status=ContactStatus.FAILED).first()
    CampaignContact.objects.filter(pk=changed.pk).update(status=ContactStatus.SKIPPED)
    CallBatch.objects.update(failed=3, skipped=1)

    place(batch, 1)

    assert attempts_of(batch) == {(ContactStatus.QUEUED, 0): 8, (ContactStatus.SKIPPED, 1): 1}
    assert checked_counters(batch) == {"total_contacts": 9, "queued": 8, "skipped": 1}


def test_five_unclear_answers_to_requests_that_placed_no_call_pause_the_batch_and_are_given_back(harbour, ultravox):
    ultravox.default_answer = Answer(500, places_call=False)
    batch = harbour.batch(queued=8)
    batch.contacts.update(max_attempts=1)
    place(batch, 7)
    backdate_attempts(batch, LONG_AGO)

    run_sweep()

    assert_given_back(batch, 8, "5 calls in a row failed. Unclear: HTTP 500")


# A batch that is no longer processing when the refusal arrives


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_contact_of_a_cancelled_batch_is_skipped(harbour, ultravox, status):
    batch = harbour.batch(queued=3)
    while_asked(ultravox, batch, refusal(status), cancel)

    assert set(batch.contacts.values_list("status", "outcome_notes")) == {("skipped", "Batch cancelled")}
    assert checked_counters(batch) == {"total_contacts": 3, "skipped": 3}
    assert state_of(batch) == (BatchStatus.CANCELLED, "Cancelled by user")


def test_a_batch_that_a_user_has_paused_stays_paused_and_its_contact_is_queued_again(harbour, ultravox):
    batch = harbour.batch(queued=3)
    while_asked(ultravox, batch, refusal(402), pause)

    assert attempts_of(batch) == {(ContactStatus.QUEUED, 0): 3}
    assert state_of(batch) == (BatchStatus.PAUSED, None)
    assert batch.events.latest("pk").pgh_context["via"] == "api"


def while_asked(ultravox, batch, answer, verb):
    """Place a call, and apply ``verb`` to the batch before the provider answers."""
    ultravox.default_answer = answer
    ultravox.may_answer.clear()
    dialling = PausedThread(lambda: place_next_call(batch))
    dialling.start()
    until(lambda: ultravox.asked)
    verb(batch)
    ultravox.may_answer.set()
    dialling.release()
