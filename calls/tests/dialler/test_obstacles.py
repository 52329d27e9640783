"""One broken or locked row, one worker without network and one odd answer do not stop the dialler."""

import json
import socket
from datetime import timedelta

import pytest
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from calls import tasks
from calls.dialler import placing, rounds
from calls.dialler.claims import claim_next_contact
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.waiting import waiting_for, with_dialling_state
from calls.exceptions import BatchReadFailed
from calls.models import Agency, AgentMapping, CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import cancel, plain_connection
from calls.tests.support.provider import KEY, Answer

pytestmark = pytest.mark.django_db(transaction=True)


def refusal(status, **body):
    return Answer(status, json.dumps(body), places_call=False)


def test_a_contact_whose_batch_was_deleted_takes_no_slot_of_its_agency_and_blocks_no_number(harbour):
    deleted = harbour.batch(queued=1)
    lost = claim_next_contact(deleted)
    CampaignContact.objects.filter(pk=lost.pk).update(batch=None)
    Agency.objects.update(max_concurrent_calls=1)
    batch = harbour.batch(queued=1)
    batch.contacts.update(phone_number=lost.phone_number)

    assert claim_next_contact(batch) is not None


def test_no_call_is_placed_if_the_table_of_calls_cannot_hold_it(harbour, ultravox, monkeypatch):
    monkeypatch.setattr(placing, "_recordable", False)
    batch = harbour.batch(queued=1)
    with plain_connection() as plain:
        plain.execute("ALTER TABLE calls RENAME contact_id TO contact_uuid; ALTER TABLE calls ADD contact_id varchar")
        try:
            assert place_next_call(batch) is DialOutcome.NOTHING_CLAIMED
            assert run_pass() == PassResult(1, 0, 0)
        finally:
            plain.execute("ALTER TABLE calls DROP contact_id; ALTER TABLE calls RENAME contact_uuid TO contact_id")
    assert ultravox.asked == []
    assert place_next_call(batch) is DialOutcome.PLACED


def test_a_batch_whose_agent_was_deleted_waits_and_does_not_take_the_turns_of_others(harbour, bluebell, ultravox):
    broken, good = harbour.batch(queued=1), harbour.batch(queued=1)
    agent = AgentMapping.objects.create(agency=harbour.agency, ultravox_agent_id="gone")
    CallBatch.objects.filter(pk=broken.pk).update(agent_mapping=agent)
    Agency.objects.update(max_concurrent_calls=1)
    with plain_connection() as plain:
        plain.execute("SET session_replication_role = replica")
        plain.execute("DELETE FROM agent_mappings WHERE id = %s", [agent.pk])
    try:
        assert run_pass() == PassResult(1, 1, 0)
        shown = waiting_for(with_dialling_state(CallBatch.objects.filter(pk=broken.pk)).get())
        assert str(shown) == "the batch's agent mapping was deleted"
        assert good.contacts.get().status == ContactStatus.IN_PROGRESS
    finally:
        CallBatch.objects.filter(pk=broken.pk).update(agent_mapping=harbour.agent)


def test_a_batch_whose_contacts_are_locked_does_not_keep_the_last_slot_of_its_agency(harbour, ultravox):
    locked, free = harbour.batch(queued=1), harbour.batch(queued=1)
    Agency.objects.update(max_concurrent_calls=1)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM campaign_contacts WHERE batch_id = %s FOR UPDATE", [locked.pk])
        assert run_pass() == PassResult(2, 1, 0)

    assert free.contacts.get().status == ContactStatus.IN_PROGRESS


@pytest.mark.usefixtures("empty_queue")
def test_a_full_round_is_followed_by_the_next_one_after_a_pause(harbour, monkeypatch):
    monkeypatch.setattr(rounds, "CALLS_PER_ROUND", 1)
    harbour.batch(queued=1)

    tasks.dial_due_batches(0)

    following = ProcrastinateJob.objects.get(task_name=tasks.dial_next_batches.name)
    assert following.scheduled_at > timezone.now() + timedelta(seconds=0.3)


def test_a_refusal_that_arrives_after_a_cancel_skips_its_contact(harbour, ultravox):
    """Although four contacts before it have failed for the same reason."""
    ultravox.default_answer = refusal(403, detail="Not allowed.")
    batch = harbour.batch(queued=5)
    batch.contacts.update(max_attempts=1)
    for _ in range(4):
        claim_next_contact(batch).record_rejected(reason="Not placed: HTTP 403: Not allowed.")
    contact = claim_next_contact(batch)
    cancel(batch)

    assert contact.record_batch_refused(reason="HTTP 403: Not allowed.")

    contact.refresh_from_db()
    assert (contact.status, contact.outcome_notes) == (ContactStatus.SKIPPED, "Batch cancelled")
    assert batch.contacts.filter(status=ContactStatus.FAILED).count() == 4


def test_a_refused_account_is_recorded_although_the_key_cannot_be_read_again(harbour, ultravox, monkeypatch):
    def fail(*arguments):
        raise BatchReadFailed

    monkeypatch.setattr(placing, "has_other_key", fail)
    ultravox.default_answer = refusal(401, detail="Invalid key.")
    batch = harbour.batch(queued=1)

    assert place_next_call(batch) is DialOutcome.PAUSED
    assert list(batch.contacts.values_list("status", "attempts")) == [(ContactStatus.QUEUED, 0)]


@pytest.mark.parametrize(
    "answers",
    [
        [refusal(400, detail=f"Request req_000{number} is malformed.") for number in range(5)],
        [refusal(422, detail=f"Rejected at 09:30:0{number}.") for number in range(5)],
    ],
    ids=["request id", "time"],
)
def test_refusals_that_differ_in_an_id_or_a_time_are_for_the_same_reason(harbour, ultravox, answers):
    ultravox.next_answers.extend(answers)
    batch = harbour.batch(queued=10)

    for _ in range(5):
        place_next_call(batch)

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PAUSED
    assert set(batch.contacts.values_list("status", "attempts")) == {(ContactStatus.QUEUED, 0)}


def test_an_answer_that_repeats_the_request_is_not_about_the_number(harbour, ultravox):
    batch = harbour.batch(queued=1)
    number = batch.contacts.get().phone_number
    ultravox.default_answer = refusal(
        403, detail="Account suspended.", medium={"telnyx": {"outgoing": {"to": number, "from": "+12125550199"}}}
    )

    assert place_next_call(batch) is DialOutcome.PAUSED


@pytest.mark.usefixtures("ultravox")
def test_a_worker_that_cannot_reach_the_provider_pauses_itself_and_defers_no_account(harbour, settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings.ULTRAVOX_API_URL = f"http://127.0.0.1:{free.getsockname()[1]}"
        settings.ULTRAVOX_API_KEY = KEY
        batch = harbour.batch(queued=2)

        assert [place_next_call(batch), place_next_call(batch)] == [DialOutcome.DEFERRED, DialOutcome.NOTHING_CLAIMED]

    assert Agency.objects.get(pk=harbour.agency.pk).dial_after is None
    assert set(batch.contacts.values_list("status", "attempts")) == {(ContactStatus.QUEUED, 0)}
