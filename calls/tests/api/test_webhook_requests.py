"""Which webhook requests are accepted: secrets, signatures, bodies, and a batch that is locked."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from rest_framework.test import APIClient

from calls.models import Call, WebhookEvent
from calls.statuses import ContactStatus
from calls.tests.support.factories import batch_snapshot, plain_connection
from calls.tests.support.webhooks import SIGNING_SECRET, WEBHOOK_SECRET, call_object, event_body, signature_headers

pytestmark = pytest.mark.django_db


def test_a_wrong_secret_and_an_unknown_agency_get_the_same_answer(bluebell, deliver, called_contact):
    answers = [
        deliver(event_body("call.ended", call_object("the-call")), secret="wrong"),
        APIClient().post(f"/functions/v1/webhook-ingest/{uuid.uuid4()}/{WEBHOOK_SECRET}"),
        APIClient().post(f"/functions/v1/webhook-ingest/not-a-uuid/{WEBHOOK_SECRET}"),
        APIClient().post(f"/functions/v1/webhook-ingest/{bluebell.agency.pk}/{WEBHOOK_SECRET}"),
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert not WebhookEvent.objects.exists()


def test_an_agency_without_a_webhook_secret_accepts_no_events(harbour):
    harbour.agency.webhook_secret = ""
    harbour.agency.save()

    for secret in ("", "%20", "None"):
        url = f"/functions/v1/webhook-ingest/{harbour.agency.pk}/{secret}"
        assert APIClient().post(url).status_code in (401, 404)


def test_an_event_of_one_agency_does_not_change_a_call_of_another(bluebell, deliver, called_contact):
    assert deliver(event_body("call.ended", call_object("the-call")), agency=bluebell.agency).status_code == 200

    called_contact.refresh_from_db()
    assert called_contact.status == ContactStatus.IN_PROGRESS
    assert Call.objects.get().ended_at is None


@pytest.mark.parametrize(
    ("make_headers", "status"),
    [
        (lambda body: signature_headers(body), 200),
        (lambda body: signature_headers(body, other_signatures=["0" * 64, "", "ä"]), 200),
        (lambda body: signature_headers(body, at=datetime.now(UTC) - timedelta(seconds=55)), 200),
        (lambda body: signature_headers(body, at=datetime.now(UTC) - timedelta(seconds=61)), 401),
        (lambda body: signature_headers(body, at=datetime.now(UTC) + timedelta(seconds=90)), 401),
        (lambda body: signature_headers(body, secret="another"), 401),
        (lambda body: signature_headers(body + " "), 401),
        (lambda body: signature_headers(body) | {"X-Ultravox-Webhook-Timestamp": "now"}, 401),
        (lambda body: {"X-Ultravox-Webhook-Signature": signature_headers(body)["X-Ultravox-Webhook-Signature"]}, 401),
        (lambda body: {}, 401),
    ],
    ids=[
        "valid",
        "one of several is valid",
        "55 seconds old",
        "61 seconds old",
        "from the future",
        "another secret",
        "another body",
        "invalid timestamp",
        "no timestamp",
        "no headers",
    ],
)
def test_with_a_signing_secret_a_delivery_needs_a_valid_and_recent_signature(
    harbour, deliver, called_contact, make_headers, status
):
    harbour.agency.webhook_signing_secret = SIGNING_SECRET
    body = event_body("call.ended", call_object("the-call"))

    assert deliver(body, **make_headers(body)).status_code == status
    assert WebhookEvent.objects.exists() is (status == 200)


def test_a_repeated_delivery_with_a_new_signature_is_accepted(harbour, deliver, called_contact):
    harbour.agency.webhook_signing_secret = SIGNING_SECRET
    body = event_body("call.ended", call_object("the-call"))
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    assert deliver(body, **signature_headers(body, at=long_ago)).status_code == 401

    assert deliver(body, **signature_headers(body)).status_code == 200
    called_contact.refresh_from_db()
    assert called_contact.status == ContactStatus.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        event_body("call.ended", call_object("an-unknown-call")),
        event_body("call.transferred", call_object("the-call", "call.transferred")),
        '{"event": "call.ended"}',
        '{"event": "call.ended", "call": 7}',
        '{"event": "call.ended", "call": {"callId": null}}',
        '{"event": "call.ended", "call": {"callId": "%s"}}' % ("x" * 5000),
        '{"event": "call.ended", "call": {"callId": "\\u0000\\ud800", "ended": "\\u0000"}}',
        '{"event": "\\u0000\\ud800x"}',
        '{"event": "ping", "n": 1e5000}',
        '{"event": "ping", "n": %s}' % ("9" * 5000),
        '\ufeff{"event": "ping"}',
    ],
)
def test_an_event_without_a_known_type_or_call_is_stored_and_has_no_effect(deliver, called_contact, body):
    before = batch_snapshot(called_contact.batch)

    assert deliver(body).json() == {"success": True}
    assert deliver(body).status_code == 200
    assert WebhookEvent.objects.count() == 1
    assert batch_snapshot(called_contact.batch) == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "body_invalid"),
        ("[]", "body_invalid"),
        ("{", "body_invalid"),
        (b"\xff", "body_invalid"),
        ("[" * 100_000, "body_invalid"),
        ("{}", "event_required"),
        ('{"event": null}', "event_required"),
        ('{"event": 7}', "event_required"),
    ],
)
def test_a_body_that_is_not_an_event_is_refused_and_not_stored(deliver, called_contact, body, code):
    answer = deliver(body)

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not WebhookEvent.objects.exists()


@pytest.mark.parametrize(("size", "status"), [(1024 * 1024, 200), (1024 * 1024 + 1, 413)])
def test_a_body_may_have_up_to_1_mb(deliver, called_contact, size, status):
    body = '{"event": "ping", "padding": "%s"}'

    assert deliver(body % ("x" * (size - len(body) + 2))).status_code == status


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("PUT", 405), ("OPTIONS", 204)])
def test_only_post_is_allowed(harbour, method, status):
    answer = APIClient().generic(method, f"/functions/v1/webhook-ingest/{harbour.agency.pk}/{WEBHOOK_SECRET}")

    assert (answer.status_code, answer["Allow"]) == (status, "POST, OPTIONS")


def test_a_secret_may_contain_slashes_but_the_url_may_not_end_with_one(harbour):
    harbour.agency.webhook_secret = "a/b+c="
    harbour.agency.save()
    url = f"/functions/v1/webhook-ingest/{harbour.agency.pk}/a/b+c="

    assert APIClient().generic("POST", url, '{"event": "ping"}').status_code == 200
    assert APIClient().generic("POST", f"{url}/", '{"event": "ping"}').status_code == 404


@pytest.mark.django_db(transaction=True)
def test_while_the_batch_is_locked_nothing_is_stored_and_the_provider_is_asked_to_deliver_again(
    deliver, called_contact, monkeypatch
):
    monkeypatch.setattr("calls.database.transactions.set_timeouts.__kwdefaults__", {"lock": 0.2, "statement": 5.0})
    body = event_body("call.ended", call_object("the-call"))
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM call_batches FOR UPDATE")
        answer = deliver(body)

    assert (answer.status_code, answer["Retry-After"], answer.json()["code"]) == (503, "5", "not_stored")
    assert not WebhookEvent.objects.exists()
    assert deliver(body).status_code == 200
    called_contact.refresh_from_db()
    assert called_contact.status == ContactStatus.COMPLETED
