"""POST /functions/v1/calls-batch-cancel: the contract's table, row by row and in its order."""

import json
import re
import uuid

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.test import Client

from calls.models import AgencyUser, CallBatch
from calls.roles import Role
from calls.statuses import BatchStatus
from calls.tests.support.factories import URL, batch_snapshot, cancel, client_of

pytestmark = pytest.mark.django_db

INVALID_IDS = [
    *(1, 0, 1.5, True, False, [], ["x"], {}, {"a": 1}, " ", "nonsense"),
    "{01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10}",
    "urn:uuid:01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10",
    "01985f2c7a3e7c1d9b542f6f0c9d1e10",
    " 01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10",
    "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10\n",
    "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e1",
    "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e1g",
    "\u0661" * 8 + "-7a3e-7c1d-9b54-2f6f0c9d1e10",
    "\ud800",
    "\u0000",
]

NO_BATCH_ID = [
    b"",
    b"null",
    b"nonsense",
    b"\xff\xfe\xfd",
    b"{",
    b"[]",
    b'"01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"',
    b"{}",
    b'{"batch_id": null}',
    b'{"batch_id": ""}',
    b'{"Batch_Id": "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"}',
    b"batch_id=01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10",
    b'{"batch_id": NaN}',
    '{"batch_id": "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"}'.encode("utf-16"),
    b"[" * 60_000,
    b'{"a":' * 10_000,
]


def body(batch_id):
    return json.dumps({"batch_id": batch_id}, default=str)


def post(client, content, content_type="application/json", **headers):
    return client.generic("POST", URL, content, content_type=content_type, **headers)


def refusal(response):
    assert response["Content-Type"] == "application/json"
    return response.status_code, response.json()


def test_the_owner_cancels_a_batch(harbour, owner):
    batch = harbour.batch(queued=342, in_progress=5)

    response = post(owner, body(batch.pk))

    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {
        "success": True,
        "batch_id": str(batch.pk),
        "status": "cancelled",
        "contacts_skipped": 342,
        "message": "Batch cancelled. In-progress calls will complete but no new calls will be initiated.",
    }


def test_the_history_says_who_it_was(harbour, owner):
    batch = harbour.batch(queued=3)

    post(owner, body(batch.pk))

    user = harbour.owner
    assert batch.events.latest("pk").pgh_context == {
        "actor": {"kind": "agency_user", "id": str(user.pk), "label": user.email},
        "via": "api",
        "contacts_skipped": 3,
    }


def test_an_upper_case_id_is_answered_in_lower_case(harbour, owner):
    batch = harbour.batch(queued=1)

    response = post(owner, body(str(batch.pk).upper()))

    assert response.json()["batch_id"] == str(batch.pk)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("signed_in", [True, False])
def test_row_1_another_method_is_refused_signed_in_or_not(harbour, owner, client, method, signed_in):
    response = (owner if signed_in else client).generic(method, URL)

    assert response.status_code == 405
    assert response["Allow"] == "POST, OPTIONS"
    if method != "HEAD":
        assert response.json() == {"error": "Method not allowed", "code": "method_not_allowed"}


def test_row_2_a_missing_header_is_refused(harbour, client):
    response = post(client, body(harbour.batch().pk))

    assert refusal(response) == (401, {"error": "Missing or invalid authorization header", "code": "unauthorized"})
    assert response["WWW-Authenticate"] == "Bearer"


def test_row_3_somebody_without_a_users_row_has_no_agency(harbour, bluebell):
    batch = harbour.batch(queued=1)
    stranger = AgencyUser(id=uuid.uuid4(), role=Role.AGENCY_OWNER, email="stranger@example.com")

    response = post(client_of(stranger), body(batch.pk))

    assert refusal(response) == (403, {"error": "User is not associated with an agency", "code": "no_agency"})


def test_row_3_a_row_without_an_agency_has_none(harbour):
    AgencyUser.objects.filter(pk=harbour.owner.pk).update(agency=None)

    response = post(client_of(harbour.owner), body(harbour.batch().pk))

    assert refusal(response) == (403, {"error": "User is not associated with an agency", "code": "no_agency"})


def test_row_4_a_member_may_not(harbour):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    response = post(client_of(harbour.users[Role.AGENCY_MEMBER]), body(batch.pk))

    assert refusal(response) == (
        403,
        {"error": "User role is not agency_owner or agency_admin", "code": "insufficient_role"},
    )
    assert batch_snapshot(batch) == before


def test_row_4_a_demotion_works_at_once(harbour, owner):
    AgencyUser.objects.filter(pk=harbour.owner.pk).update(role=Role.AGENCY_MEMBER)

    assert post(owner, body(harbour.batch().pk)).status_code == 403


@pytest.mark.parametrize("content", NO_BATCH_ID, ids=lambda content: content[:24].decode(errors="replace"))
def test_row_5_a_body_without_a_batch_id(owner, content):
    assert refusal(post(owner, content)) == (400, {"error": "batch_id is required", "code": "batch_id_required"})


@pytest.mark.parametrize("batch_id", INVALID_IDS, ids=lambda batch_id: repr(batch_id)[:40])
def test_row_6_anything_else_than_a_uuid(owner, batch_id):
    assert refusal(post(owner, body(batch_id))) == (
        400,
        {"error": "batch_id must be a valid UUID", "code": "batch_id_invalid"},
    )


def test_row_6_a_number_too_long_for_python_is_a_number_still(owner):
    response = post(owner, '{"batch_id": ' + "9" * 5000 + "}")

    assert refusal(response) == (400, {"error": "batch_id must be a valid UUID", "code": "batch_id_invalid"})


def test_row_7_an_unknown_batch_and_another_agencys_cannot_be_told_apart(owner, bluebell):
    foreign = bluebell.batch(queued=1)
    before = batch_snapshot(foreign)

    answers = [refusal(post(owner, body(batch_id))) for batch_id in (foreign.pk, uuid.uuid4())]

    assert answers == [(404, {"error": "Batch not found", "code": "batch_not_found"})] * 2
    assert batch_snapshot(foreign) == before


def test_row_8_a_cancelled_batch_says_when_it_ended(harbour, owner):
    batch = harbour.batch(queued=1)
    cancel(batch)
    batch.refresh_from_db()

    status, answer = refusal(post(owner, body(batch.pk)))

    assert status == 400
    assert answer == {
        "error": "Batch is already cancelled",
        "code": "batch_already_cancelled",
        "batch_id": str(batch.pk),
        "status": "cancelled",
        "completed_at": batch.completed_at.isoformat().replace("+00:00", "Z"),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", answer["completed_at"])


def test_row_8_a_completed_batch_may_not_know_when(harbour, owner):
    batch = harbour.batch(BatchStatus.COMPLETED)

    assert refusal(post(owner, body(batch.pk))) == (
        400,
        {
            "error": "Batch is already completed",
            "code": "batch_already_completed",
            "batch_id": str(batch.pk),
            "status": "completed",
            "completed_at": None,
        },
    )


@pytest.mark.parametrize("error", [DatabaseError, OperationalError, InterfaceError])
@pytest.mark.parametrize("verb", ["get", "select_for_update", "update"])
def test_row_9_any_database_error_once_the_id_is_valid(harbour, owner, monkeypatch, caplog, error, verb):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    def fails(*args, **kwargs):
        raise error("with +12125550100 in it")

    monkeypatch.setattr(type(CallBatch.objects.all()), verb, fails)
    response = post(owner, body(batch.pk))
    monkeypatch.undo()

    assert refusal(response) == (500, {"error": "Failed to update batch status", "code": "update_failed"})
    assert batch_snapshot(batch) == before
    assert f"database error: {error.__name__}" in caplog.text
    assert "+12125550100" not in caplog.text


def test_an_unforeseen_error_is_logged_and_never_shown(harbour, owner, monkeypatch, caplog):
    def breaks(*args, **kwargs):
        raise RuntimeError("the reason")

    monkeypatch.setattr(CallBatch, "cancel", breaks)
    response = post(owner, body(harbour.batch().pk))

    assert refusal(response) == (500, {"error": "Internal server error", "code": "internal_error"})
    assert "RuntimeError: the reason" in caplog.text


def test_an_error_rolls_back_what_was_written_before_it_under_atomic_requests(harbour, owner, monkeypatch, settings):
    batch = harbour.batch(queued=1)
    cancel_batch = CallBatch.cancel

    def cancels_and_breaks(self, **kwargs):
        cancel_batch(self, **kwargs)
        raise RuntimeError

    monkeypatch.setattr(CallBatch, "cancel", cancels_and_breaks)
    monkeypatch.setitem(settings.DATABASES["default"], "ATOMIC_REQUESTS", True)
    post(owner, body(batch.pk))

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING


def test_the_method_is_checked_before_the_token_and_the_role_before_the_body(harbour, client):
    member = client_of(harbour.users[Role.AGENCY_MEMBER])

    assert client.get(URL).status_code == 405
    assert post(client, b"nonsense").status_code == 401
    assert post(member, b"nonsense").status_code == 403
    assert post(member, b" " * 70_000).status_code == 403


def test_a_body_over_64_kb_is_refused(owner):
    response = post(owner, b" " * (64 * 1024 + 1))

    assert refusal(response) == (413, {"error": "Request body too large", "code": "body_too_large"})


def test_a_byte_order_mark_is_no_harm(harbour, owner):
    assert post(owner, body(harbour.batch().pk).encode("utf-8-sig")).status_code == 200


def test_a_body_of_64_kb_is_read(harbour, owner):
    content = body(harbour.batch().pk)

    assert post(owner, content + " " * (64 * 1024 - len(content))).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense", "a/b/c;;"],
)
def test_the_body_is_json_whatever_its_content_type_says(harbour, owner, content_type):
    assert post(owner, body(harbour.batch().pk), content_type).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "image/png", "nonsense", "application/json; indent=8"])
def test_the_answer_is_json_whatever_the_client_accepts(harbour, owner, accept):
    response = post(owner, body(harbour.batch().pk), HTTP_ACCEPT=accept)

    assert response.status_code == 200
    assert response.content.startswith(b'{"success":true,')


def test_unknown_parameters_keys_and_headers_are_ignored(harbour, owner):
    content = json.dumps({"batch_id": str(harbour.batch().pk), "dry_run": True})

    response = owner.generic("POST", f"{URL}?format=xml&batch_id=1", content, HTTP_X_REGION="eu", HTTP_X_WHAT="ever")

    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/nowhere", "/docs/", "/administer", "/functions/v1/", "/functions/v1/nowhere", URL + "/", URL + "%0A"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_an_unknown_path_and_a_trailing_slash_are_not_found(path, method):
    response = Client(enforce_csrf_checks=True).generic(method, path)

    assert refusal(response) == (404, {"error": "Not found", "code": "not_found"})


def test_a_plain_options_needs_no_token(client, db):
    response = client.options(URL)

    assert (response.status_code, response["Allow"], response.content) == (204, "POST, OPTIONS", b"")


def breaks(get_response):
    """A middleware that does."""

    def broken(request):
        raise RuntimeError

    return broken


def test_an_error_that_no_view_has_seen_is_answered_in_json(owner, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.breaks"]

    response = post(owner, b"")

    assert refusal(response) == (500, {"error": "Internal server error", "code": "internal_error"})


def test_what_another_column_holds_does_not_keep_a_batch_from_being_cancelled(harbour, owner):
    batch = harbour.batch(BatchStatus.SCHEDULED, scheduled=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET scheduled_for = 'infinity'")

    assert post(owner, body(batch.pk)).status_code == 200


def test_a_host_that_is_not_ours_is_told_so_in_json(owner):
    response = post(owner, b"", HTTP_HOST="evil.example.com")

    assert refusal(response) == (400, {"error": "Bad request", "code": "bad_request"})
