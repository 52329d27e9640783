"""``reason`` in the functions that stop calls, and ``dry_run`` in calls-batch-cancel."""

import pytest
from django.db import DataError, OperationalError
from rest_framework.test import APIClient

from calls.models import CallBatch
from calls.models.querysets import CallBatchQuerySet, CampaignContactQuerySet
from calls.roles import Role
from calls.statuses import BatchStatus
from calls.tests.support.factories import FUNCTIONS, URL, batch_snapshot, client_of
from calls.tests.support.functions import CANCEL_ALL, HOLD, agency_history, answer_to, latest_context, post_to

pytestmark = pytest.mark.django_db

PAUSE = f"{FUNCTIONS}pause"
PATHS = [URL, PAUSE, CANCEL_ALL, HOLD]
UNKNOWN = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"
INVALID_REASONS = ["x" * 501, 5, 1.5, True, False, [], ["x"], {}, "a\u0000b", "a\ud800b"]
INVALID_DRY_RUNS = ["true", "false", "", 1, 0, None, [], {}]


@pytest.fixture
def stop(harbour, owner):
    """Send a request that stops the batch, with these fields. Returns the status and the JSON of the answer."""

    def stop(path, batch, **fields):
        body = {"batch_id": str(batch.pk)} if path in (URL, PAUSE) else {}
        return answer_to(owner, path, body | fields)

    return stop


def context_of(path, tenant, batch):
    return latest_context(tenant if path == HOLD else batch)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reason", ["Wrong list", "x" * 500, "\U0001f469" * 500, " ", "line 1\nline 2"])
def test_a_reason_is_kept_in_the_history(harbour, stop, path, reason):
    batch = harbour.batch(queued=1)

    assert stop(path, batch, reason=reason)[0] == 200

    assert context_of(path, harbour, batch)["reason"] == reason


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", [{}, {"reason": None}, {"reason": ""}], ids=str)
def test_without_a_reason_the_history_has_none(harbour, stop, path, fields):
    batch = harbour.batch(queued=1)

    assert stop(path, batch, **fields)[0] == 200

    assert "reason" not in context_of(path, harbour, batch)


@pytest.mark.parametrize("path", [URL, PAUSE, CANCEL_ALL])
def test_a_reason_changes_no_column(harbour, stop, path):
    def columns(**fields):
        batch = harbour.batch(queued=1)
        stop(path, batch, **fields)
        batch.refresh_from_db()
        contact = batch.contacts.get()
        return batch.status, batch.error_message, contact.status, contact.outcome_notes

    assert columns(reason="Wrong list") == columns()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reason", INVALID_REASONS, ids=lambda reason: ascii(reason)[:12])
def test_an_invalid_reason_is_refused_and_changes_nothing(harbour, stop, path, reason):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    status, answer = stop(path, batch, reason=reason)

    assert (status, answer["code"]) == (400, "reason_invalid")
    assert answer["error"].startswith("reason must be a string of at most 500 characters")
    assert batch_snapshot(batch) == before
    assert agency_history(harbour) == []


@pytest.mark.parametrize("path", PATHS)
def test_a_reason_is_never_logged(harbour, stop, path, caplog, django_capture_on_commit_callbacks):
    caplog.set_level("INFO")

    with django_capture_on_commit_callbacks(execute=True):
        assert stop(path, harbour.batch(queued=1), reason="Call +12125550100 no more")[0] == 200

    assert "source=api" in caplog.text
    assert "12125550100" not in caplog.text


@pytest.mark.parametrize("path", [URL, PAUSE, CANCEL_ALL])
def test_a_reason_is_not_logged_after_a_database_error_either(harbour, stop, path, caplog, monkeypatch):
    def fail(self, **values):
        raise DataError("about +12125550100")

    batch = harbour.batch(queued=1)
    monkeypatch.setattr(CallBatchQuerySet, "update", fail)

    _, answer = stop(path, batch, reason="Call +12125550100 no more")

    assert "update_failed" in str(answer)
    assert "12125550100" not in caplog.text


def test_a_reason_is_ignored_by_resume(harbour, stop):
    batch = harbour.batch(BatchStatus.PAUSED, queued=1)

    assert answer_to(client_of(harbour.owner), f"{FUNCTIONS}resume", {"batch_id": str(batch.pk), "reason": 5})[0] == 200


def test_a_cancel_with_a_reason_is_answered_with_the_same_five_keys(harbour, stop):
    _, answer = stop(URL, harbour.batch(queued=1), reason="Wrong list", dry_run=False)

    assert list(answer) == ["success", "batch_id", "status", "contacts_skipped", "message"]


@pytest.mark.parametrize("status", ["pending", "scheduled", "processing", "paused", "failed"])
def test_a_dry_run_tells_what_a_cancel_would_do_and_writes_nothing(harbour, stop, status):
    batch = harbour.batch(BatchStatus(status), pending=1, queued=2, scheduled=3, in_progress=4, completed=5)
    before = batch_snapshot(batch)

    code, answer = stop(URL, batch, dry_run=True, reason="Wrong list")

    assert (code, answer) == (
        200,
        {
            "success": True,
            "dry_run": True,
            "batch_id": str(batch.pk),
            "status": status,
            "contacts_to_skip": 6,
            "calls_in_progress": 4,
            "message": "Nothing was changed. These numbers show what a cancel would do.",
        },
    )
    assert batch_snapshot(batch) == before
    assert stop(URL, batch)[1]["contacts_skipped"] == answer["contacts_to_skip"]


@pytest.mark.parametrize("dry_run", INVALID_DRY_RUNS, ids=repr)
@pytest.mark.parametrize("path", [URL, CANCEL_ALL])
def test_a_dry_run_that_is_not_a_boolean_is_refused_and_cancels_nothing(harbour, stop, path, dry_run):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    assert stop(path, batch, dry_run=dry_run) == (
        400,
        {"error": "dry_run must be true or false", "code": "dry_run_invalid"},
    )
    assert batch_snapshot(batch) == before


def test_with_dry_run_false_the_batch_is_cancelled(harbour, stop):
    batch = harbour.batch(queued=1)

    assert stop(URL, batch, dry_run=False)[1]["contacts_skipped"] == 1

    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED


@pytest.mark.parametrize("status", [BatchStatus.COMPLETED, BatchStatus.CANCELLED])
def test_a_dry_run_of_a_batch_that_has_ended_is_refused_like_a_cancel(harbour, stop, status):
    batch = harbour.batch(status, completed=1)

    previewed = stop(URL, batch, dry_run=True)

    assert (previewed[0], previewed[1]["code"]) == (400, f"batch_already_{status}")
    assert previewed == stop(URL, batch)


@pytest.mark.parametrize("batch_id", [None, "", 7, "nonsense", UNKNOWN])
def test_a_dry_run_without_a_valid_batch_id_is_refused_like_a_cancel(owner, batch_id):
    previewed = answer_to(owner, URL, {"batch_id": batch_id, "dry_run": True})

    assert previewed == answer_to(owner, URL, {"batch_id": batch_id})
    assert previewed[0] in (400, 404)


def test_a_dry_run_does_not_find_a_batch_of_another_agency(bluebell, stop):
    assert stop(URL, bluebell.batch(queued=1), dry_run=True) == (
        404,
        {"error": "Batch not found", "code": "batch_not_found"},
    )


@pytest.mark.parametrize("role", [None, Role.AGENCY_MEMBER, Role.CLIENT_ADMIN])
def test_a_dry_run_needs_the_same_role_as_a_cancel(harbour, role):
    client = client_of(harbour.users[role]) if role else APIClient()
    body = {"batch_id": str(harbour.batch(queued=1).pk)}

    previewed = answer_to(client, URL, body | {"dry_run": True})

    assert previewed == answer_to(client, URL, body)
    assert previewed[0] == (403 if role else 401)


@pytest.mark.parametrize(
    ("queryset", "method"), [(CallBatchQuerySet, "get"), (CallBatchQuerySet, "raw"), (CampaignContactQuerySet, "count")]
)
def test_a_database_error_during_a_dry_run_is_answered_as_for_a_cancel(harbour, stop, monkeypatch, queryset, method):
    def fail(*args, **kwargs):
        raise OperationalError

    batch = harbour.batch(queued=1)
    monkeypatch.setattr(queryset, method, fail)

    assert stop(URL, batch, dry_run=True) == (500, {"error": "Failed to update batch status", "code": "update_failed"})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"reason": 5, "dry_run": 1}, "batch_id_required"),
        ({"batch_id": "nonsense", "reason": 5, "dry_run": 1}, "batch_id_invalid"),
        ({"batch_id": UNKNOWN, "reason": 5, "dry_run": 1}, "reason_invalid"),
        ({"batch_id": UNKNOWN, "dry_run": 1}, "dry_run_invalid"),
        ({"batch_id": UNKNOWN, "dry_run": True}, "batch_not_found"),
    ],
)
def test_the_fields_are_checked_in_this_order_and_before_the_batch(owner, body, code):
    assert answer_to(owner, URL, body)[1]["code"] == code


def test_the_role_is_checked_before_the_reason(harbour):
    answer = post_to(client_of(harbour.users[Role.AGENCY_MEMBER]), URL, {"reason": 5})

    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_role")
    assert not CallBatch.objects.exists()
