"""Pause and resume: what they do to a batch, through the API and by themselves."""

import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from calls.audit import Source
from calls.database.transactions import transaction_with_timeouts
from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchNotFound, BatchNotPausable, BatchNotPaused, BatchUpdateFailed
from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import PHONE, STAFF_ACTOR, batch_snapshot, call, cancel, pause, resume

pytestmark = pytest.mark.django_db

PAUSABLE = [BatchStatus.PROCESSING, BatchStatus.SCHEDULED]


def others(*statuses):
    return [status for status in BatchStatus if status not in statuses]


# What they write


@pytest.mark.parametrize("status", PAUSABLE)
def test_a_pause_writes_the_batch_and_touches_no_contact(harbour, status):
    batch = harbour.batch(status, queued=3, in_progress=1, completed=1)
    (before, *_), contacts, _ = batch_snapshot(batch)

    pause(batch)

    (after, *_), same_contacts, _ = batch_snapshot(batch)
    assert same_contacts == contacts
    written = {name for name in after if after[name] != before[name]}
    assert written - {"updated_at"} == {"status", "paused_at"}
    assert after["status"] == "paused"
    assert after["updated_at"] >= after["paused_at"]


def test_a_resume_clears_the_time_of_the_pause_and_touches_no_contact(harbour):
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
def test_a_resumed_batch_waits_for_its_time_while_that_is_ahead(harbour, minutes, status):
    batch = harbour.batch(BatchStatus.PAUSED, pending=1)
    if minutes is not None:
        CallBatch.objects.update(scheduled_for=timezone.now() + timedelta(minutes=minutes))

    assert resume(batch).status == status
    batch.refresh_from_db()
    assert batch.status == status


def test_a_batch_resumed_after_its_time_is_dialled_although_its_contacts_are_still_pending(harbour):
    batch = harbour.batch(BatchStatus.SCHEDULED, pending=1)
    pause(batch)
    CallBatch.objects.update(scheduled_for=timezone.now() - timedelta(minutes=5))

    resume(batch)

    assert claim_next_contact(batch).status == ContactStatus.IN_PROGRESS


def test_nobody_is_claimed_in_a_paused_batch_and_a_call_under_way_ends(harbour):
    batch = harbour.batch(queued=2)
    contact = claim_next_contact(batch)

    assert pause(batch).in_progress == 1

    assert claim_next_contact(batch) is None
    assert contact.record_answered(outcome="answered")
    resume(batch)
    assert claim_next_contact(batch) is not None


def test_a_paused_batch_can_be_cancelled_and_then_not_be_resumed(harbour):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    assert cancel(batch).contacts_skipped == 3

    with pytest.raises(BatchNotPaused):
        resume(batch)


# What they refuse


@pytest.mark.parametrize("status", others(*PAUSABLE))
def test_what_is_neither_processing_nor_scheduled_cannot_be_paused(harbour, status):
    batch = harbour.batch(status)
    before = batch_snapshot(batch)

    with pytest.raises(BatchNotPausable) as refusal:
        pause(batch)

    assert refusal.value.status == status
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("status", others(BatchStatus.PAUSED))
def test_what_is_not_paused_cannot_be_resumed(harbour, status):
    batch = harbour.batch(status)
    before = batch_snapshot(batch)

    with pytest.raises(BatchNotPaused) as refusal:
        resume(batch)

    assert refusal.value.status == status
    assert batch_snapshot(batch) == before


def test_a_batch_that_is_gone_is_told(harbour):
    batch = CallBatch(pk=uuid.uuid4())

    for verb in (pause, resume):
        with pytest.raises(BatchNotFound):
            verb(batch)


@pytest.mark.parametrize("verb", [pause, resume])
def test_what_an_instance_says_does_not_matter(harbour, verb):
    batch = harbour.batch(BatchStatus.CANCELLED)
    batch.status = BatchStatus.PAUSED if verb is resume else BatchStatus.PROCESSING

    with pytest.raises((BatchNotPausable, BatchNotPaused)):
        verb(batch)


@pytest.mark.parametrize("verb", [pause, resume])
def test_a_trigger_of_somebody_elses_that_swallows_it_is_told(harbour, verb):
    batch = harbour.batch(BatchStatus.PAUSED if verb is resume else BatchStatus.PROCESSING)
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION swallow() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql")
        cursor.execute(
            "CREATE TRIGGER a BEFORE UPDATE ON call_batches FOR EACH ROW EXECUTE FUNCTION swallow()",
        )

    with pytest.raises(BatchUpdateFailed):
        verb(batch)


# Looking first


@pytest.mark.parametrize("name", ["pause", "resume"])
def test_a_preview_says_what_would_happen_and_writes_nothing(harbour, name):
    batch = harbour.batch(BatchStatus.PAUSED if name == "resume" else BatchStatus.SCHEDULED, queued=3, in_progress=1)
    before = batch_snapshot(batch)

    preview = getattr(batch, f"preview_{name}")()

    assert batch_snapshot(batch) == before
    result = getattr(batch, name)(actor=STAFF_ACTOR, source=Source.API)
    # Its time is that of the transaction, which here is the test's own.
    assert preview == result


@pytest.mark.parametrize("name", ["pause", "resume"])
def test_a_preview_refuses_what_the_verb_refuses(harbour, name):
    with pytest.raises((BatchNotPausable, BatchNotPaused)):
        getattr(harbour.batch(BatchStatus.CANCELLED), f"preview_{name}")()


# Who did it


def test_the_history_says_who_paused_and_resumed(harbour):
    batch = harbour.batch(queued=3)

    pause(batch)
    resume(batch)

    paused, resumed = batch.events.order_by("pk")[2:]
    assert (paused.status, resumed.status) == ("paused", "processing")
    assert paused.pgh_context == resumed.pgh_context == {"actor": STAFF_ACTOR.as_dict(), "via": "api"}


def test_one_line_in_the_log_says_who_and_how_many(harbour, caplog, django_capture_on_commit_callbacks):
    caplog.set_level("INFO", "calls")
    batch = harbour.batch(queued=3, in_progress=2)

    with django_capture_on_commit_callbacks(execute=True):
        pause(batch)
    with pytest.raises(BatchNotPausable):
        pause(batch)

    who = f"pause batch={batch.pk} agency={harbour.agency.pk} source=api actor=staff:7"
    done, refused = caplog.messages
    assert done.startswith(f"{who} outcome=paused queued=3 in_progress=2 ms=")
    assert refused.startswith(f"{who} outcome=batch_not_pausable ms=")
    assert PHONE not in caplog.text


# The API


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
def test_a_refusal_says_how_the_batch_is(harbour, owner, verb, status, code):
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
def test_they_read_their_body_as_cancel_does(harbour, owner, verb, body, status, code):
    response = call(owner, verb, body)

    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_another_agencys_batch_is_not_found(harbour, bluebell, owner, verb):
    batch = bluebell.batch(BatchStatus.PAUSED if verb == "resume" else BatchStatus.PROCESSING)
    before = batch_snapshot(batch)

    assert call(owner, verb, {"batch_id": str(batch.pk)}).status_code == 404
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_the_database_refuses_is_told(harbour, owner, monkeypatch, verb):
    batch = harbour.batch(BatchStatus.PAUSED if verb == "resume" else BatchStatus.PROCESSING)

    def fails(self, *columns):
        raise OperationalError

    monkeypatch.setattr(CallBatch, "locked", fails)

    response = call(owner, verb, {"batch_id": str(batch.pk)})

    assert (response.status_code, response.json()["code"]) == (500, "update_failed")


def test_waiting_for_the_lock_has_an_end(harbour):
    with transaction_with_timeouts(), connection.cursor() as cursor:
        batch = harbour.batch()
        with batch.locked():
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("5s",)
