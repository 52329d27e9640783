"""
POST /functions/v1/calls-batch-cancel: its answers.

The checks run in the order of their tests: method, token, agency, role, batch_id, batch, status.
"""

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


def status_and_body(response):
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


def test_the_history_names_the_user_who_cancelled(harbour, owner):
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
def test_methods_other_than_post_are_refused_with_or_without_a_token(harbour, owner, client, method, signed_in):
    response = (owner if signed_in else client).generic(method, URL)

    assert response.status_code == 405
    assert response["Allow"] == "POST, OPTIONS"
    if method != "HEAD":
        assert response.json() == {"error": "Method not allowed", "code": "method_not_allowed"}


def test_a_request_without_an_authorization_header_is_refused(harbour, client):
    response = post(client, body(harbour.batch().pk))

    assert status_and_body(response) == (
        401,
        {"error": "Missing or invalid authorization header", "code": "unauthorized"},
    )
    assert response["WWW-Authenticate"] == "Bearer"


def test_a_token_without_a_users_row_is_refused(harbour, bluebell):
    batch = harbour.batch(queued=1)
    unknown_user = AgencyUser(id=uuid.uuid4(), role=Role.AGENCY_OWNER, email="unknown@example.com")

    response = post(client_of(unknown_user), body(batch.pk))

    assert status_and_body(response) == (403, {"error": "User is not associated with an agency", "code": "no_agency"})


def test_a_users_row_without_an_agency_is_refused(harbour):
    AgencyUser.objects.filter(pk=harbour.owner.pk).update(agency=None)

    response = post(client_of(harbour.owner), body(harbour.batch().pk))

    assert status_and_body(response) == (403, {"error": "User is not associated with an agency", "code": "no_agency"})


def test_an_agency_member_is_refused(harbour):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    response = post(client_of(harbour.users[Role.AGENCY_MEMBER]), body(batch.pk))

    assert status_and_body(response) == (
        403,
        {"error": "User role is not agency_owner or agency_admin", "code": "insufficient_role"},
    )
    assert batch_snapshot(batch) == before


def test_a_demotion_takes_effect_at_once(harbour, owner):
    AgencyUser.objects.filter(pk=harbour.owner.pk).update(role=Role.AGENCY_MEMBER)

    assert post(owner, body(harbour.batch().pk)).status_code == 403


@pytest.mark.parametrize("content", NO_BATCH_ID, ids=lambda content: content[:24].decode(errors="replace"))
def test_a_body_without_a_batch_id_is_refused(owner, content):
    assert status_and_body(post(owner, content)) == (
        400,
        {"error": "batch_id is required", "code": "batch_id_required"},
    )


@pytest.mark.parametrize("batch_id", INVALID_IDS, ids=lambda batch_id: repr(batch_id)[:40])
def test_a_batch_id_that_is_not_a_uuid_is_refused(owner, batch_id):
    assert status_and_body(post(owner, body(batch_id))) == (
        400,
        {"error": "batch_id must be a valid UUID", "code": "batch_id_invalid"},
    )


def test_a_number_too_long_for_python_is_refused_like_any_number(owner):
    response = post(owner, '{"batch_id": ' + "9" * 5000 + "}")

    assert status_and_body(response) == (400, {"error": "batch_id must be a valid UUID", "code": "batch_id_invalid"})


def test_an_unknown_batch_and_one_of_another_agency_get_the_same_answer(owner, bluebell):
    other = bluebell.batch(queued=1)
    before = batch_snapshot(other)

    answers = [status_and_body(post(owner, body(batch_id))) for batch_id in (other.pk, uuid.uuid4())]

    assert answers == [(404, {"error": "Batch not found", "code": "batch_not_found"})] * 2
    assert batch_snapshot(other) == before


def test_a_cancelled_batch_is_refused_with_the_time_of_the_cancel(harbour, owner):
    batch = harbour.batch(queued=1)
    cancel(batch)
    batch.refresh_from_db()

    status, answer = status_and_body(post(owner, body(batch.pk)))

    assert status == 400
    assert answer == {
        "error": "Batch is already cancelled",
        "code": "batch_already_cancelled",
        "batch_id": str(batch.pk),
        "status": "cancelled",
        "completed_at": batch.completed_at.isoformat().replace("+00:00", "Z"),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", answer["completed_at"])


def test_a_completed_batch_without_a_time_is_refused_with_null(harbour, owner):
    batch = harbour.batch(BatchStatus.COMPLETED)

    assert status_and_body(post(owner, body(batch.pk))) == (
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
@pytest.mark.parametrize("verb", ["get", "raw", "update"])
def test_a_database_error_is_answered_with_500_and_changes_nothing(harbour, owner, monkeypatch, caplog, error, verb):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    def fail(*args, **kwargs):
        raise error("with +12125550100 in it")

    monkeypatch.setattr(type(CallBatch.objects.all()), verb, fail)
    response = post(owner, body(batch.pk))
    monkeypatch.undo()

    assert status_and_body(response) == (500, {"error": "Failed to update batch status", "code": "update_failed"})
    assert batch_snapshot(batch) == before
    assert f"database error: {error.__name__}" in caplog.text
    assert "+12125550100" not in caplog.text


def test_an_unexpected_error_is_logged_and_not_shown_to_the_client(harbour, owner, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("the reason")

    monkeypatch.setattr(CallBatch, "cancel", fail)
    response = post(owner, body(harbour.batch().pk))

    assert status_and_body(response) == (500, {"error": "Internal server error", "code": "internal_error"})
    assert "RuntimeError: the reason" in caplog.text


def test_with_atomic_requests_an_error_rolls_back_what_was_written_before_it(harbour, owner, monkeypatch, settings):
    batch = harbour.batch(queued=1)
    cancel_batch = CallBatch.cancel

    def cancel_and_fail(self, **kwargs):
        cancel_batch(self, **kwargs)
        raise RuntimeError

    monkeypatch.setattr(CallBatch, "cancel", cancel_and_fail)
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

    assert status_and_body(response) == (413, {"error": "Request body too large", "code": "body_too_large"})


def test_a_byte_order_mark_is_ignored(harbour, owner):
    assert post(owner, body(harbour.batch().pk).encode("utf-8-sig")).status_code == 200


def test_a_body_of_64_kb_is_accepted(harbour, owner):
    content = body(harbour.batch().pk)

    assert post(owner, content + " " * (64 * 1024 - len(content))).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense", "a/b/c;;"],
)
def test_the_body_is_parsed_as_json_with_any_content_type(harbour, owner, content_type):
    assert post(owner, body(harbour.batch().pk), content_type).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "image/png", "nonsense", "application/json; indent=8"])
def test_the_answer_is_json_with_any_accept_header(harbour, owner, accept):
    response = post(owner, body(harbour.batch().pk), HTTP_ACCEPT=accept)

    assert response.status_code == 200
    assert response.content.startswith(b'{"success":true,')


def test_unknown_parameters_keys_and_headers_are_ignored(harbour, owner):
    content = json.dumps({"batch_id": str(harbour.batch().pk), "Dry_Run": True, "limits": 5})

    response = owner.generic(
        "POST", f"{URL}?format=xml&batch_id=1&dry_run=true", content, HTTP_X_REGION="eu", HTTP_X_WHAT="ever"
    )

    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"


@pytest.mark.parametrize(
    "path",
    ["/", "/nowhere", "/docs/", "/administer", "/functions/v1/", "/functions/v1/nowhere", URL + "/", URL + "%0A"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_an_unknown_path_and_a_trailing_slash_are_not_found(path, method):
    response = Client(enforce_csrf_checks=True).generic(method, path)

    assert status_and_body(response) == (404, {"error": "Not found", "code": "not_found"})


def test_a_plain_options_needs_no_token(client, db):
    response = client.options(URL)

    assert (response.status_code, response["Allow"], response.content) == (204, "POST, OPTIONS", b"")


def failing_middleware(get_response):
    def middleware(request):
        raise RuntimeError

    return middleware


def test_an_error_in_a_middleware_is_answered_in_json(owner, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.failing_middleware"]

    response = post(owner, b"")

    assert status_and_body(response) == (500, {"error": "Internal server error", "code": "internal_error"})


def test_a_batch_whose_scheduled_time_is_infinity_can_be_cancelled(harbour, owner):
    batch = harbour.batch(BatchStatus.SCHEDULED, scheduled=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET scheduled_for = 'infinity'")

    assert post(owner, body(batch.pk)).status_code == 200


def test_a_request_for_a_host_that_is_not_allowed_is_refused_in_json(owner):
    response = post(owner, b"", HTTP_HOST="evil.example.com")

    assert status_and_body(response) == (400, {"error": "Bad request", "code": "bad_request"})
