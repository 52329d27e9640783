"""Requests that no HTTP client sends on purpose: broken and incomplete bodies, on a live gunicorn."""

import json

import pytest

from calls.api.authentication import issue_token
from calls.models import CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.factories import FUNCTIONS, URL
from calls.tests.support.server import database_url, exchange, gunicorn
from calls.tests.support.webhooks import WEBHOOK_SECRET

pytestmark = pytest.mark.django_db(transaction=True)

BROKEN = {
    "size is not hexadecimal": b"zz\r\nabc",
    "negative size": b"-1\r\nabc\r\n0\r\n\r\n",
    "size with an underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "size with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\n",
    "endless size": b"0" * 300_000 + b"\r\n",
    "malformed extension": b"3;a=b\x01\r\nabc\r\n0\r\n\r\n",
    "wrong terminator": b"3\r\nabcXX0\r\n\r\n",
    "LF instead of CRLF": b"3\nabc\n0\n\n",
    "forbidden trailer": b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "malformed trailer": b"3\r\nabc\r\n0\r\nbad trailer\r\n\r\n",
    "ends in a chunk": b"5\r\nab",
    "ends before the trailers": b"3\r\nabc\r\n0\r\n",
}
BAD_REQUEST = (400, {"error": "Bad request", "code": "bad_request"})
# The CSRF check reads the body only if these headers are in order.
LOGIN = [
    "POST /admin/login/ HTTP/1.1",
    "X-Forwarded-Proto: https",
    "Referer: https://127.0.0.1/admin/login/",
    f"Cookie: csrftoken={'a' * 32}",
]


@pytest.fixture(scope="module")
def server(django_db_setup):
    with gunicorn(database_url(), WEB_CONCURRENCY="1") as host_and_port:
        yield host_and_port


@pytest.fixture
def endpoints(harbour):
    """The first lines of a request to endpoints that read their body, by name."""
    harbour.agency.webhook_secret = WEBHOOK_SECRET
    harbour.agency.save()
    authorization = f"Authorization: Bearer {issue_token(harbour.owner)}"
    return {
        "cancel": [f"POST {URL} HTTP/1.1", authorization],
        "create": [f"POST {FUNCTIONS}create HTTP/1.1", authorization],
        "webhook": [f"POST /functions/v1/webhook-ingest/{harbour.agency.pk}/{WEBHOOK_SECRET} HTTP/1.1"],
        "login": [*LOGIN, "Content-Type: application/x-www-form-urlencoded"],
        "upload": [*LOGIN, "Content-Type: multipart/form-data; boundary=x"],
    }


def chunked(head):
    return [*head, "Transfer-Encoding: chunked"]


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_broken_chunked_body_is_a_bad_request(server, endpoints, body):
    answers = {name: exchange(server, chunked(head), body) for name, head in endpoints.items()}

    assert answers == dict.fromkeys(endpoints, BAD_REQUEST)


def test_a_body_that_is_shorter_than_its_length_is_a_bad_request(server, endpoints):
    answers = {name: exchange(server, [*head, "Content-Length: 100"], b"{}") for name, head in endpoints.items()}

    assert answers == dict.fromkeys(endpoints, BAD_REQUEST)


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_an_incomplete_cancel_cancels_nothing(harbour, server, endpoints, framing):
    batch = harbour.batch(queued=3)
    body = json.dumps({"batch_id": str(batch.pk)}).encode()
    if "chunked" in framing:
        body = b"%x\r\n%b\r\n" % (len(body), body)

    assert exchange(server, [*endpoints["cancel"], framing], body) == BAD_REQUEST
    assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.PROCESSING


def test_a_broken_body_without_a_token_is_unauthorized(server):
    status, answer = exchange(server, chunked([f"POST {URL} HTTP/1.1"]), b"zz\r\nabc")

    assert (status, answer["code"]) == (401, "unauthorized")


def test_a_login_of_more_than_256_kb_is_a_bad_request(server):
    head = [*LOGIN, "Content-Type: application/x-www-form-urlencoded", "Content-Length: 300000"]

    # The answer comes before the body is read.
    assert exchange(server, head) == BAD_REQUEST


def test_errors_that_the_client_caused_are_logged_without_a_traceback(endpoints, capfd):
    with gunicorn(database_url(), WEB_CONCURRENCY="1") as server:
        for head in endpoints.values():
            exchange(server, chunked(head), b"zz\r\nabc")
            exchange(server, [*head, "Content-Length: 100"], b"{}")
        exchange(server, [*endpoints["login"], "Content-Length: 300000"])

    log = capfd.readouterr().err
    assert "RequestDataTooBig" in log
    assert "Traceback" not in log
