"""CORS: preflights, and the headers of every answer."""

import pytest

from calls.models import CallBatch
from calls.tests.support.factories import URL

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

APP = "https://app.example.com"
HEADERS = [
    "authorization",
    "x-client-info",
    "apikey",
    "content-type",
    "x-region",
    "x-retry-count",
    "x-supabase-client-platform",
    "x-supabase-client-platform-version",
    "x-supabase-client-runtime",
    "x-supabase-client-runtime-version",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "baggage",
]


def preflight(client, origin=APP, **headers):
    return client.options(URL, HTTP_ORIGIN=origin, HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST", **headers)


def test_a_preflight_needs_no_token_and_allows_the_headers_of_supabase_clients(client):
    response = preflight(client, HTTP_ACCESS_CONTROL_REQUEST_HEADERS=", ".join(HEADERS))

    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == APP
    assert set(HEADERS) <= set(response["Access-Control-Allow-Headers"].split(", "))
    assert "POST" in response["Access-Control-Allow-Methods"].split(", ")


def test_an_origin_that_is_not_configured_is_not_allowed(client):
    assert "Access-Control-Allow-Origin" not in preflight(client, origin="https://evil.example")


def test_all_origins_can_be_allowed(client, settings):
    settings.CORS_ALLOW_ALL_ORIGINS = True

    assert preflight(client, origin="https://any.example")["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("status", [200, 400, 401, 404, 405, 500, "unknown path", "plain OPTIONS", "wrong host"])
def test_every_answer_has_cors_headers_including_errors(harbour, owner, client, monkeypatch, status):
    def fail(*args, **kwargs):
        raise RuntimeError

    batch_id = "00000000-0000-0000-0000-000000000000" if status == 404 else str(harbour.batch().pk)
    if status == 500:
        monkeypatch.setattr(CallBatch, "cancel", fail)
    response = {
        401: lambda: client.post(URL, HTTP_ORIGIN=APP),
        400: lambda: owner.post(URL, HTTP_ORIGIN=APP),
        405: lambda: owner.get(URL, HTTP_ORIGIN=APP),
        "unknown path": lambda: owner.post(URL + "/", HTTP_ORIGIN=APP),
        "plain OPTIONS": lambda: owner.options(URL, HTTP_ORIGIN=APP),
        "wrong host": lambda: owner.post(URL, HTTP_ORIGIN=APP, HTTP_HOST="evil.example"),
    }.get(status, lambda: owner.post(URL, {"batch_id": batch_id}, format="json", HTTP_ORIGIN=APP))()

    expected = {"unknown path": 404, "plain OPTIONS": 204, "wrong host": 400}.get(status, status)
    assert (response.status_code, response["Access-Control-Allow-Origin"]) == (expected, APP)
