"""CallBatch.pause() and resume(), and their API functions."""

import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from calls.database.transactions import transaction_with_timeouts
from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchNotFound, BatchNotPausable, BatchNotPaused, BatchUpdateFailed
from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import PHONE, STAFF_ACTOR, batch_snapshot, call, cancel, pause, resume

pytestmark = pytest.mark.django_db

PAUSABLE = [BatchStatus.PROCESSING, BatchStatus.SCHEDULED]


def all_except(*statuses):
    return [status for status in BatchStatus if status not in statuses]


# Changes


@pytest.mark.parametrize("status", PAUSABLE)
def test_pause_writes_the_batch_and_changes_no_contact(harbour, status):
    batch = harbour.batch(status, queued=3, in_progress=1, completed=1)
    (before, *_), contacts, _ = batch_snapshot(batch)

    pause(batch)

    (after, *_), same_contacts, _ = batch_snapshot(batch)
    assert same_contacts == contacts
    written = {name for name in after if after[name] != before[name]}
    assert written - {"updated_at"} == {"status", "paused_at"}
    assert after["status"] == "paused"
    assert after["updated_at"] >= after["paused_at"]


def test_resume_clears_paused_at_and_changes_no_contact(harbour):
    batch = harbour.batch(queued=3)
    pause(batch)
    (before, *_), contacts, _ = batch_snapshot(batch)

    resume(batch)

    (after, *_), same_contacts, _ = batch_snapshot(batch)
    assert same_contacts == contacts
    assert {name for name in after if after[name] != before[name]} - {"updated_at"} == {"status", "paused_at"}
    assert (after["status"], after["paused_at"]) == ("processing", None)


@pytest.mark.parametrize(
    ("minutes", "status"), [(None, BatchStatus.PROCESSING), (-5, BatchStatus.PROCESSING), (5, BatchStatus.SCHEDULED)]
)
def test_a_resumed_batch_is_scheduled_again_while_its_time_is_ahead(harbour, minutes, status):
    batch = harbour.batch(BatchStatus.PAUSED, pending=1)
    if minutes is not None:
        CallBatch.objects.update(scheduled_for=timezone.now() + timedelta(minutes=minutes))

    assert resume(batch).status == status
    batch.refresh_from_db()
    assert batch.status == status


def test_a_batch_resumed_after_its_time_is_dialled_although_its_contacts_are_pending(harbour):
    batch = harbour.batch(BatchStatus.SCHEDULED, pending=1)
    pause(batch)
    CallBatch.objects.update(scheduled_for=timezone.now() - timedelta(minutes=5))

    resume(batch)

    assert claim_next_contact(batch).status == ContactStatus.IN_PROGRESS


def test_no_contact_of_a_paused_batch_is_claimed_and_a_call_in_progress_ends_as_usual(harbour):
    batch = harbour.batch(queued=2)
    contact = claim_next_contact(batch)

    assert pause(batch).in_progress == 1

    assert claim_next_contact(batch) is None
    assert contact.record_answered(outcome="answered")
    resume(batch)
    assert claim_next_contact(batch) is not None


def test_a_paused_batch_can_be_cancelled_and_then_not_resumed(harbour):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    assert cancel(batch).contacts_skipped == 3

    with pytest.raises(BatchNotPaused):
        resume(batch)


# Refusals


@pytest.mark.parametrize("status", all_except(*PAUSABLE))
def test_only_a_processing_or_scheduled_batch_can_be_paused(harbour, status):
    batch = harbour.batch(status)
    before = batch_snapshot(batch)

    with pytest.raises(BatchNotPausable) as refusal:
        pause(batch)

    assert refusal.value.status == status
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("status", all_except(BatchStatus.PAUSED))
def test_only_a_paused_batch_can_be_resumed(harbour, status):
    batch = harbour.batch(status)
    before = batch_snapshot(batch)

    with pytest.raises(BatchNotPaused) as refusal:
        resume(batch)

    assert refusal.value.status == status
    assert batch_snapshot(batch) == before


def test_a_deleted_batch_is_refused(harbour):
    batch = CallBatch(pk=uuid.uuid4())

    for verb in (pause, resume):
        with pytest.raises(BatchNotFound):
            verb(batch)


@pytest.mark.parametrize("verb", [pause, resume])
def test_a_stale_status_of_the_instance_is_ignored(harbour, verb):
    batch = harbour.batch(BatchStatus.CANCELLED)
    batch.status = BatchStatus.PAUSED if verb is resume else BatchStatus.PROCESSING

    with pytest.raises((BatchNotPausable, BatchNotPaused)):
        verb(batch)


@pytest.mark.parametrize("verb", [pause, resume])
def test_an_update_dropped_by_a_trigger_of_another_service_is_reported(harbour, verb):
    batch = harbour.batch(BatchStatus.PAUSED if verb is resume else BatchStatus.PROCESSING)
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION swallow() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql")
        cursor.execute("CREATE TRIGGER a BEFORE UPDATE ON call_batches FOR EACH ROW EXECUTE FUNCTION swallow()")

    with pytest.raises(BatchUpdateFailed):
        verb(batch)


# Previews


@pytest.mark.parametrize(
    ("preview", "verb", "status"),
    [(CallBatch.preview_pause, pause, BatchStatus.SCHEDULED), (CallBatch.preview_resume, resume, BatchStatus.PAUSED)],
)
def test_a_preview_returns_what_the_verb_would_return_and_writes_nothing(harbour, preview, verb, status):
    batch = harbour.batch(status, queued=3, in_progress=1)
    before = batch_snapshot(batch)

    previewed = preview(batch)

    assert batch_snapshot(batch) == before
    # Both have the time of the test's transaction.
    assert previewed == verb(batch)


@pytest.mark.parametrize("preview", [CallBatch.preview_pause, CallBatch.preview_resume])
def test_a_preview_refuses_what_the_verb_refuses(harbour, preview):
    with pytest.raises((BatchNotPausable, BatchNotPaused)):
        preview(harbour.batch(BatchStatus.CANCELLED))


# History and log


def test_the_history_names_who_paused_and_resumed(harbour):
    batch = harbour.batch(queued=3)

    pause(batch)
    resume(batch)

    paused, resumed = batch.events.order_by("pk")[2:]
    assert (paused.status, resumed.status) == ("paused", "processing")
    assert paused.pgh_context == resumed.pgh_context == {"actor": STAFF_ACTOR.as_dict(), "via": "api"}


def test_one_log_line_names_the_actor_and_the_counts_or_the_refusal(
    harbour, caplog, django_capture_on_commit_callbacks
):
    caplog.set_level("INFO", "calls")
    batch = harbour.batch(queued=3, in_progress=2)

    with django_capture_on_commit_callbacks(execute=True):
        pause(batch)
    with pytest.raises(BatchNotPausable):
        pause(batch)

    subject = f"pause batch={batch.pk} agency={harbour.agency.pk} source=api actor=staff:7"
    paused, refused = caplog.messages
    assert paused.startswith(f"{subject} outcome=paused queued=3 in_progress=2 ms=")
    assert refused.startswith(f"{subject} outcome=batch_not_pausable ms=")
    assert PHONE not in caplog.text


# API


def test_the_owner_pauses_a_batch(harbour, owner):
    batch = harbour.batch(queued=3)

    response = call(owner, "pause", {"batch_id": str(batch.pk).upper()})

    batch.refresh_from_db()
    assert response.status_code == 200
    assert response.json() == {
        "success": True,
        "batch_id": str(batch.pk),
        "status": "paused",
        "paused_at": batch.paused_at.isoformat().replace("+00:00", "Z"),
        "message": "Batch paused. In-progress calls will complete but no new calls will be initiated "
        "until it is resumed.",
    }


def test_the_owner_resumes_a_batch(harbour, owner):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    response = call(owner, "resume", {"batch_id": str(batch.pk)})

    assert response.status_code == 200
    assert response.json() == {
        "success": True,
        "batch_id": str(batch.pk),
        "status": "processing",
        "message": "Batch resumed. Its remaining contacts will be called.",
    }


@pytest.mark.parametrize(
    ("verb", "status", "code"),
    [
        ("pause", BatchStatus.PAUSED, "batch_not_pausable"),
        ("pause", BatchStatus.CANCELLED, "batch_not_pausable"),
        ("resume", BatchStatus.PROCESSING, "batch_not_paused"),
        ("resume", BatchStatus.COMPLETED, "batch_not_paused"),
    ],
)
def test_a_refusal_has_the_status_of_the_batch(harbour, owner, verb, status, code):
    batch = harbour.batch(status)

    response = call(owner, verb, {"batch_id": str(batch.pk)})

    answer = response.json()
    assert (response.status_code, answer["code"]) == (400, code)
    assert (answer["batch_id"], answer["status"], answer["completed_at"]) == (str(batch.pk), status, None)


@pytest.mark.parametrize("verb", ["pause", "resume"])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (None, 400, "batch_id_required"),
        ({"batch_id": ""}, 400, "batch_id_required"),
        ({"batch_id": "nonsense"}, 400, "batch_id_invalid"),
        ({"batch_id": "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e99"}, 404, "batch_not_found"),
        ({"batch_id": "x" * 70_000}, 413, "body_too_large"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_request_body_is_validated_as_for_cancel(harbour, owner, verb, body, status, code):
    response = call(owner, verb, body)

    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_batch_of_another_agency_is_not_found(harbour, bluebell, owner, verb):
    batch = bluebell.batch(BatchStatus.PAUSED if verb == "resume" else BatchStatus.PROCESSING)
    before = batch_snapshot(batch)

    assert call(owner, verb, {"batch_id": str(batch.pk)}).status_code == 404
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_database_error_answers_update_failed(harbour, owner, monkeypatch, verb):
    batch = harbour.batch(BatchStatus.PAUSED if verb == "resume" else BatchStatus.PROCESSING)

    def fails(self, *columns, **expressions):
        raise OperationalError

    monkeypatch.setattr(CallBatch, "locked", fails)

    response = call(owner, verb, {"batch_id": str(batch.pk)})

    assert (response.status_code, response.json()["code"]) == (500, "update_failed")


def test_waiting_for_the_lock_has_a_timeout(harbour):
    with transaction_with_timeouts(), connection.cursor() as cursor:
        batch = harbour.batch()
        with batch.locked():
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("5s",)
