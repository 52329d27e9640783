"""Gunicorn as in production, called over HTTP and with Supabase's own client."""

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest
from django.db import connection
from supabase_functions import SyncFunctionsClient
from supabase_functions.errors import FunctionsHttpError

from calls.api.authentication import issue_token
from calls.models import CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.factories import FUNCTIONS, PHONE, ROOT, URL
from calls.tests.support.server import database_url, gunicorn, request

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server(django_db_setup):
    with gunicorn(database_url()) as host_and_port:
        yield host_and_port


def test_a_request_cancels_a_batch(harbour, server):
    batch = harbour.batch(queued=3)
    body, token = json.dumps({"batch_id": str(batch.pk)}), issue_token(harbour.owner)

    status, headers, answer = request(server, "POST", URL, body, Authorization=f"Bearer {token}")

    assert (status, answer["contacts_skipped"]) == (200, 3)
    assert headers["Content-Type"] == "application/json"
    assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.CANCELLED


@pytest.fixture
def functions(harbour, server):
    """Supabase's Python client with the token of Harbour's owner. Only the URL differs from Supabase's."""
    with httpx.Client() as http_client:
        headers = {"Authorization": f"Bearer {issue_token(harbour.owner)}"}
        yield SyncFunctionsClient(f"http://{server}/functions/v1", headers, http_client=http_client)


def test_supabases_client_cancels_a_batch(harbour, functions):
    batch = harbour.batch(queued=3)

    answer = functions.invoke("calls-batch-cancel", {"body": {"batch_id": str(batch.pk)}, "responseType": "json"})

    assert answer["contacts_skipped"] == 3


def test_supabases_client_creates_a_batch_and_lists_and_gets_it(harbour, functions):
    created = functions.invoke(
        "calls-batch-create",
        {"body": harbour.create_body(), "headers": {"Idempotency-Key": "once"}, "responseType": "json"},
    )
    listed, got = (
        functions.invoke(name, {"method": "GET", "responseType": "json"})
        for name in ("calls-batch-list?limit=1", f"calls-batch-get?batch_id={created['batch_id']}")
    )

    (batch,) = listed["batches"]
    assert got["batch"] == batch | {"replaces": None, "replaced_by": None}
    assert got["batch"]["id"] == created["batch_id"]
    assert [contact["phone_number"] for contact in got["contacts"]] == [PHONE]


def test_supabases_client_raises_the_error_of_a_refused_request(functions):
    with pytest.raises(FunctionsHttpError, match="batch_id must be a valid UUID"):
        functions.invoke("calls-batch-cancel", {"body": '{"batch_id": "1"}'})


def test_the_api_answers_plain_http_without_a_redirect(server):
    status, headers, answer = request(server, "POST", URL)

    assert (status, answer["code"]) == (401, "unauthorized")
    assert headers["Location"] is None


def test_a_chunked_body_is_read(harbour, server):
    batch = harbour.batch(queued=3)
    body = json.dumps({"batch_id": str(batch.pk)}).encode()

    # http.client sends an iterable in chunks, without a length.
    status, _, answer = request(
        server, "POST", URL, iter([body[:9], body[9:]]), Authorization=f"Bearer {issue_token(harbour.owner)}"
    )

    assert (status, answer["contacts_skipped"]) == (200, 3)


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_body_of_5_mb_is_refused_with_an_answer_that_the_client_can_read(harbour, server, chunked):
    body = b" " * 5_000_000

    status, _, answer = request(
        server, "POST", URL, iter([body]) if chunked else body, Authorization=f"Bearer {issue_token(harbour.owner)}"
    )

    assert (status, answer["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_create_of_more_than_16_mb_is_refused_with_an_answer_that_the_client_can_read(harbour, server, chunked):
    body = b" " * 25_000_000

    status, _, answer = request(
        server,
        "POST",
        f"{FUNCTIONS}create",
        iter([body]) if chunked else body,
        Authorization=f"Bearer {issue_token(harbour.owner)}",
    )

    assert (status, answer["error"]) == (413, "Request body too large: at most 16 MB")


def test_a_chunked_create_with_10_000_contacts_is_stored(harbour, server):
    body = json.dumps(harbour.create_body(*(f"+1212{index:07d}" for index in range(10_000)))).encode()

    status, _, answer = request(
        server, "POST", f"{FUNCTIONS}create", iter([body]), Authorization=f"Bearer {issue_token(harbour.owner)}"
    )

    assert (status, answer["total_contacts"]) == (201, 10_000)


def test_a_client_that_disconnects_while_it_sends_causes_no_traceback(harbour, capfd):
    with gunicorn(database_url()) as server:
        host, _, port = server.partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                f"POST {FUNCTIONS}create HTTP/1.1\r\nHost: {server}\r\nContent-Length: 5000\r\n"
                f"Authorization: Bearer {issue_token(harbour.owner)}\r\n\r\n{{".encode()
            )
            time.sleep(0.5)
            # Close with a reset instead of a normal end of the connection.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        status, *_ = request(server, "GET", "/healthz")

    assert status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_malformed_content_type_is_ignored(harbour, server):
    content_type = "application/json; a*=bogus'en'%20"

    status, _, answer = request(server, "POST", URL, **{"Content-Type": content_type})

    assert (status, answer["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("charset", ["hex", "undefined", "utf-16", "nonsense", "utf-8"])
def test_the_charset_of_the_content_type_is_ignored(harbour, server, charset):
    batch, other = harbour.batch(queued=3), harbour.batch(queued=1)
    headers = {"Content-Type": f"application/json; charset={charset}"}
    headers["Authorization"] = f"Bearer {issue_token(harbour.owner)}"

    listed = request(server, "GET", f"{FUNCTIONS}list?status=paused&limit=1", **headers)
    found = request(server, "GET", f"{FUNCTIONS}get?batch_id={other.pk}", **headers)
    body = json.dumps({"batch_id": str(batch.pk)})
    cancelled = request(server, "POST", f"{URL}?forceFunctionRegion=eu-west-1", body, **headers)

    assert (listed[0], listed[2]["batches"]) == (200, [])
    assert (found[0], found[2]["batch"]["id"]) == (200, str(other.pk))
    assert (cancelled[0], cancelled[2]["contacts_skipped"]) == (200, 3)


def test_the_charset_is_ignored_without_a_token_too(server):
    status, headers, answer = request(
        server, "POST", f"{URL}?a=1", Origin="https://app.example.com", **{"Content-Type": "text/plain; charset=hex"}
    )

    assert (status, answer["code"]) == (401, "unauthorized")
    assert headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/"])
def test_a_malformed_session_cookie_is_ignored(server, path):
    connection = http.client.HTTPConnection(server, timeout=30)
    connection.request("GET", path, headers={"Cookie": 'sessionid="\\000aaaaaaaaaa"', "X-Forwarded-Proto": "https"})

    assert connection.getresponse().status in (200, 302)
    connection.close()


def test_a_token_of_100_kb_is_refused_by_the_api(server):
    status, headers, answer = request(server, "POST", URL, Authorization="Bearer " + "x" * 100_000)

    assert (status, answer["code"], headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")


def test_two_authorization_headers_are_refused(harbour, server):
    client = http.client.HTTPConnection(server, timeout=30)
    client.putrequest("POST", URL)
    for _ in range(2):
        client.putheader("Authorization", f"Bearer {issue_token(harbour.owner)}")
    client.putheader("Content-Length", "0")
    client.endheaders()

    assert client.getresponse().status == 401
    client.close()


def test_a_head_request_has_no_body(server):
    status, headers, answer = request(server, "HEAD", URL)

    assert (status, headers["Allow"], answer) == (405, "POST, OPTIONS", None)


def test_the_health_check_answers_200_for_any_host(server):
    assert request(server, "GET", "/healthz", Host="10.0.0.7")[::2] == (200, {"status": "ok"})


def test_the_server_starts_without_a_database_and_the_health_check_answers_503():
    with gunicorn("postgresql://user@127.0.0.1:1/nothing") as server:
        assert request(server, "GET", "/healthz")[::2] == (503, {"status": "unavailable"})


def test_connections_that_the_database_has_closed_are_replaced(harbour, server):
    batch = harbour.batch(queued=3)
    body, token = json.dumps({"batch_id": str(batch.pk)}), issue_token(harbour.owner)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: request(server, "GET", "/healthz")[0], range(80))
    assert set(answers) == {200}

    with psycopg.connect(database_url(), autocommit=True) as plain:
        plain.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()
    started = time.monotonic()
    status, _, answer = request(server, "POST", URL, body, Authorization=f"Bearer {token}")

    assert (status, answer["success"]) == (200, True)
    assert time.monotonic() - started < 2


def test_cancel_batch_cancels_every_batch_even_if_its_output_is_a_closed_pipe(harbour):
    batches = [harbour.batch(queued=3) for _ in range(3)]
    reader, writer = os.pipe()
    os.close(reader)

    command = subprocess.run(
        [sys.executable, "-u", "manage.py", "cancel_batch", *(str(batch.pk) for batch in batches)],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "agency_backend.settings"},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)

    assert command.returncode == 0
    assert "Traceback" not in command.stderr
    assert set(CallBatch.objects.values_list("status", flat=True)) == {BatchStatus.CANCELLED}


def test_more_requests_at_once_than_database_connections_are_all_answered(harbour, server):
    batches = [harbour.batch(queued=3) for _ in range(40)]
    authorization = f"Bearer {issue_token(harbour.owner)}"

    with ThreadPoolExecutor(40) as pool:
        answers = pool.map(
            lambda batch: request(
                server, "POST", URL, json.dumps({"batch_id": str(batch.pk)}), Authorization=authorization
            ),
            batches,
        )

    assert {status for status, _, _ in answers} == {200}
