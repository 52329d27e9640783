"""POST /functions/v1/calls-batch-cancel-all: which batches it cancels, and its answers."""

import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.exceptions import BatchUpdateFailed
from calls.models import AgentMapping, CallBatch
from calls.models.querysets import CallBatchQuerySet
from calls.statuses import BatchStatus
from calls.tests.support.dialling import change
from calls.tests.support.factories import batch_snapshot, call, cancel, client_of
from calls.tests.support.functions import CANCEL_ALL, answer_to, latest_context

pytestmark = pytest.mark.django_db

# On an adopted database a trigger sets updated_at.
SETS_UPDATED_AT = pytest.mark.not_adopted
MESSAGE = "Batches cancelled: {}. In-progress calls will complete but no new calls will be initiated in these batches."


@pytest.fixture
def cancel_all(owner):
    """Send calls-batch-cancel-all as Harbour's owner. Returns the status and the JSON of the answer."""
    return lambda body=None: answer_to(owner, CANCEL_ALL, body)


@pytest.fixture
def autumn(harbour):
    """Harbour with another campaign."""
    return harbour.for_client(None)


@pytest.fixture
def other_agent(harbour):
    """Harbour with another agent."""
    agent = AgentMapping.objects.create(agency=harbour.agency, ultravox_agent_id="another-agent")
    return replace(harbour, agent=agent)


@pytest.fixture
def failing_batch(harbour, monkeypatch):
    """A batch whose cancel and preview fail."""
    failing = harbour.batch(queued=7)
    for verb in ("cancel", "preview_cancel"):
        original = getattr(CallBatch, verb)

        def fail(self, original=original, **arguments):
            if self.pk == failing.pk:
                raise BatchUpdateFailed
            return original(self, **arguments)

        monkeypatch.setattr(CallBatch, verb, fail)
    return failing


def active(batch, *, minutes_ago):
    """Set the time of the batch's latest activity."""
    return change(batch, updated_at=timezone.now() - timedelta(minutes=minutes_ago))


def cancelled_batches():
    return set(CallBatch.objects.filter(status=BatchStatus.CANCELLED))


def test_it_cancels_every_batch_of_the_agency_and_answers_with_the_totals(harbour, cancel_all):
    older = active(harbour.batch(queued=3, in_progress=1, completed=2), minutes_ago=2)
    newer = active(harbour.batch(BatchStatus.PAUSED, pending=4), minutes_ago=1)

    assert cancel_all() == (
        200,
        {
            "success": True,
            "batches_cancelled": 2,
            "batches_failed": 0,
            "contacts_skipped": 7,
            "results": [
                {"batch_id": str(newer.pk), "status": "cancelled", "contacts_skipped": 4},
                {"batch_id": str(older.pk), "status": "cancelled", "contacts_skipped": 3},
            ],
            "message": MESSAGE.format(2),
        },
    )
    assert cancelled_batches() == {older, newer}


@SETS_UPDATED_AT
def test_the_batch_with_the_latest_activity_comes_first(harbour, cancel_all):
    batches = {ago: active(harbour.batch(queued=1), minutes_ago=ago) for ago in (3, 1, 4, 2)}

    _, answer = cancel_all()

    assert [result["batch_id"] for result in answer["results"]] == [str(batches[ago].pk) for ago in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "body", [None, b"", b"  \n", {}, {"reason": None}, {"unknown": 1}, {"batch_id": "x"}], ids=repr
)
def test_the_body_may_be_absent_or_empty_and_unknown_keys_are_ignored(harbour, cancel_all, body):
    batch = harbour.batch(queued=1)

    assert cancel_all(body)[1]["batches_cancelled"] == 1
    assert cancelled_batches() == {batch}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "nonsense"])
@pytest.mark.parametrize("body", ["", "{}"])
def test_the_body_is_read_with_any_content_type(harbour, owner, body, content_type):
    harbour.batch(queued=1)

    answer = owner.generic("POST", CANCEL_ALL, body, content_type=content_type)

    assert (answer.status_code, answer.json()["batches_cancelled"]) == (200, 1)


@pytest.mark.parametrize("body", [b"{", b"nonsense", b"null", b"[]", b'"all"', b"5", b"\xff", b"[" * 60_000], ids=ascii)
def test_a_body_that_is_not_a_json_object_is_refused_and_cancels_nothing(harbour, cancel_all, body):
    harbour.batch(queued=1)

    assert cancel_all(body) == (400, {"error": "body must be a JSON object", "code": "body_invalid"})
    assert cancelled_batches() == set()


@pytest.mark.parametrize("field", ["campaign_id", "agent_mapping_id"])
@pytest.mark.parametrize("value", ["", " ", "nonsense", 7, True, [], {}, "01985f2c7a3e7c1d9b542f6f0c9d1e10"], ids=repr)
def test_an_id_that_is_not_a_uuid_is_refused_and_cancels_nothing(harbour, cancel_all, field, value):
    harbour.batch(queued=1)

    assert cancel_all({field: value}) == (
        400,
        {"error": f"{field} must be a valid UUID", "code": f"{field}_invalid"},
    )
    assert cancelled_batches() == set()


@pytest.mark.parametrize(("field", "what"), [("campaign_id", "campaign"), ("agent_mapping_id", "agent")])
def test_an_unknown_id_and_one_of_another_agency_are_not_found_and_cancel_nothing(
    harbour, bluebell, cancel_all, field, what
):
    harbour.batch(queued=1)
    bluebell.batch(queued=1)

    answers = [cancel_all({field: str(pk)}) for pk in (getattr(bluebell, what).pk, uuid.uuid4())]

    assert answers[0] == answers[1]
    assert (answers[0][0], answers[0][1]["code"]) == (404, f"{field.removesuffix('_id')}_not_found")
    assert cancelled_batches() == set()


def test_with_a_campaign_only_its_batches_are_cancelled(harbour, autumn, cancel_all):
    harbour.batch(queued=1)
    chosen = autumn.batch(queued=1)

    assert cancel_all({"campaign_id": str(autumn.campaign.pk)})[1]["batches_cancelled"] == 1
    assert cancelled_batches() == {chosen}


def test_with_an_agent_only_its_batches_are_cancelled(harbour, other_agent, cancel_all):
    harbour.batch(queued=1)
    chosen = other_agent.batch(queued=1)

    assert cancel_all({"agent_mapping_id": str(other_agent.agent.pk)})[1]["batches_cancelled"] == 1
    assert cancelled_batches() == {chosen}


def test_with_a_campaign_and_an_agent_only_batches_of_both_are_cancelled(harbour, autumn, other_agent, cancel_all):
    for tenant in (harbour, autumn, other_agent):
        tenant.batch(queued=1)
    chosen = replace(autumn, agent=other_agent.agent).batch(queued=1)

    cancel_all({"campaign_id": str(autumn.campaign.pk).upper(), "agent_mapping_id": str(other_agent.agent.pk)})

    assert cancelled_batches() == {chosen}


def test_an_id_that_is_null_restricts_nothing(harbour, cancel_all):
    harbour.batch(queued=1)

    assert cancel_all({"campaign_id": None, "agent_mapping_id": None})[1]["batches_cancelled"] == 1


def test_batches_of_another_agency_are_not_touched(harbour, bluebell, cancel_all):
    own, other = harbour.batch(queued=1), bluebell.batch(queued=1)
    before = batch_snapshot(other)

    cancel_all()

    assert batch_snapshot(other) == before
    assert cancelled_batches() == {own}


def test_batches_that_have_ended_are_not_listed_and_not_changed(harbour, cancel_all):
    ended = [harbour.batch(BatchStatus.COMPLETED, completed=1), harbour.batch(queued=1)]
    cancel(ended[1])
    before = [batch_snapshot(batch) for batch in ended]

    assert cancel_all() == (
        200,
        {
            "success": True,
            "batches_cancelled": 0,
            "batches_failed": 0,
            "contacts_skipped": 0,
            "results": [],
            "message": MESSAGE.format(0),
        },
    )
    assert [batch_snapshot(batch) for batch in ended] == before


@SETS_UPDATED_AT
def test_a_failed_batch_does_not_stop_the_others_from_being_cancelled(harbour, failing_batch, cancel_all):
    active(failing_batch, minutes_ago=1)
    first, last = active(harbour.batch(queued=1), minutes_ago=0), active(harbour.batch(queued=2), minutes_ago=2)

    status, answer = cancel_all()

    assert status == 200
    assert answer == {
        "success": False,
        "batches_cancelled": 2,
        "batches_failed": 1,
        "contacts_skipped": 3,
        "results": [
            {"batch_id": str(first.pk), "status": "cancelled", "contacts_skipped": 1},
            {
                "batch_id": str(failing_batch.pk),
                "error": "Failed to update batch status",
                "code": "update_failed",
            },
            {"batch_id": str(last.pk), "status": "cancelled", "contacts_skipped": 2},
        ],
        "message": f"{MESSAGE.format(2)} Batches that could not be cancelled: 1. Repeat the request.",
    }
    assert cancelled_batches() == {first, last}


def test_asking_again_cancels_the_batches_that_are_left(harbour, failing_batch, cancel_all, monkeypatch):
    harbour.batch(queued=1)
    cancel_all()
    monkeypatch.undo()

    _, answer = cancel_all()

    assert (answer["success"], answer["batches_cancelled"], answer["contacts_skipped"]) == (True, 1, 7)
    assert answer["results"][0]["batch_id"] == str(failing_batch.pk)


def test_the_history_of_each_batch_names_the_user_and_the_reason(harbour, cancel_all):
    batches = [harbour.batch(queued=number) for number in (1, 2)]

    cancel_all({"reason": "Wrong script"})

    for number, batch in enumerate(batches, start=1):
        assert latest_context(batch) == {
            "actor": {"kind": "agency_user", "id": str(harbour.owner.pk), "label": harbour.owner.email},
            "via": "api",
            "contacts_skipped": number,
            "reason": "Wrong script",
        }


def test_a_dry_run_has_the_numbers_of_each_batch_and_writes_nothing(harbour, cancel_all):
    older = active(harbour.batch(queued=3, in_progress=1), minutes_ago=2)
    newer = active(harbour.batch(BatchStatus.PAUSED, pending=4, in_progress=2), minutes_ago=1)
    harbour.batch(BatchStatus.COMPLETED, completed=1)
    before = [batch_snapshot(batch) for batch in (older, newer)]

    assert cancel_all({"dry_run": True}) == (
        200,
        {
            "success": True,
            "dry_run": True,
            "batches_to_cancel": 2,
            "batches_failed": 0,
            "contacts_to_skip": 7,
            "calls_in_progress": 3,
            "results": [
                {"batch_id": str(newer.pk), "status": "paused", "contacts_to_skip": 4, "calls_in_progress": 2},
                {"batch_id": str(older.pk), "status": "processing", "contacts_to_skip": 3, "calls_in_progress": 1},
            ],
            "message": "Nothing was changed. These numbers show what a cancel would do.",
        },
    )
    assert [batch_snapshot(batch) for batch in (older, newer)] == before


def test_a_dry_run_tells_which_batches_could_not_be_read(harbour, failing_batch, cancel_all):
    harbour.batch(queued=1)

    _, answer = cancel_all({"dry_run": True})

    assert (answer["success"], answer["batches_to_cancel"], answer["batches_failed"]) == (False, 1, 1)
    assert answer["contacts_to_skip"] == 1


def test_with_dry_run_false_the_batches_are_cancelled(harbour, cancel_all):
    batch = harbour.batch(queued=1)

    assert cancel_all({"dry_run": False})[1]["batches_cancelled"] == 1
    assert cancelled_batches() == {batch}


def test_if_the_batches_cannot_be_read_nothing_is_cancelled(harbour, cancel_all, monkeypatch):
    def fail(self, *columns):
        raise OperationalError

    harbour.batch(queued=1)
    monkeypatch.setattr(CallBatchQuerySet, "only", fail)

    assert cancel_all() == (500, {"error": "Failed to update batch status", "code": "update_failed"})


@pytest.mark.parametrize("dry_run", [False, True])
def test_each_batch_takes_the_same_number_of_queries(harbour, cancel_all, dry_run):
    def queries(count):
        for _ in range(count):
            harbour.batch(queued=1)
        with CaptureQueriesContext(connection) as captured:
            cancel_all({"dry_run": dry_run})
        CallBatch.objects.cancellable().update(status=BatchStatus.CANCELLED)
        return len(captured)

    queries(1)
    none, three, thirty = queries(0), queries(3), queries(30)

    assert (thirty - none) == 10 * (three - none)


def test_a_body_over_64_kb_is_refused(cancel_all):
    assert cancel_all(b" " * (64 * 1024 + 1))[1]["code"] == "body_too_large"


def test_other_methods_are_refused(owner):
    answer = owner.get(CANCEL_ALL)

    assert (answer.status_code, answer["Allow"]) == (405, "POST, OPTIONS")


def test_another_agency_can_cancel_its_batches_at_the_same_time(harbour, bluebell, cancel_all):
    other = bluebell.batch(queued=1)
    harbour.batch(queued=1)
    cancel_all()

    assert call(client_of(bluebell.owner), "cancel-all", {}).json()["results"][0]["batch_id"] == str(other.pk)
