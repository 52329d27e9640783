"""``manage.py runserver``, which ``make run`` starts."""

import re
import socket

import pytest

from calls.tests.support.server import database_url, development_server

pytestmark = pytest.mark.django_db

REQUESTS = {
    b"garbage\r\n\r\n": b"400",
    b"GET /admin/?q=+12125550100 and more HTTP/1.1\r\n\r\n": b"400",
    b"\x16\x03\x01\x00\xa5\r\n\r\n": b"400",
    # As much as the server reads of a line.
    (b"GET /" + b"a" * 65_537)[:65_537]: b"414",
    b"GET /nothing?q=+12125550100 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n": b"404",
}


def answer_to(server, request):
    host, _, port = server.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(request)
        # The server has logged the request when it closes the connection.
        return b"".join(iter(lambda: client.recv(65_536), b""))


def test_a_malformed_request_line_is_answered_and_logged_without_its_query(capfd):
    with development_server(database_url()) as server:
        answers = [answer_to(server, request) for request in REQUESTS]

    # Python's server answers a request line that has no version with the error page alone, as in HTTP/0.9.
    statuses = [re.search(rb"HTTP/1.1 (\d+)|Error code: (\d+)", answer) for answer in answers]
    assert [status and (status[1] or status[2]) for status in statuses] == list(REQUESTS.values())
    out = "".join(capfd.readouterr())
    assert "Bad request syntax ('garbage')" in out
    assert '"GET /nothing HTTP/1.1" 404' in out
    assert "Traceback" not in out
    assert "2125550100" not in out
