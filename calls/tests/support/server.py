"""gunicorn as it is started in production, on the test's database."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from calls.tests.support.factories import ROOT, address


def database_url():
    where = {"host": "", "port": 5432} | address()
    return f"postgresql://{where['user']}@/{where['dbname']}?host={where['host']}&port={where['port']}"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until_it_listens(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def environment_on(database_url, **variables):
    """Return the environment of a process of this project that uses that database."""
    return {
        **os.environ,
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": "agency_backend.settings",
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
        **variables,
    }


def gunicorn(database_url, **variables):
    """Run ``gunicorn agency_backend.wsgi`` on a free port. Yields its host and port."""
    port = free_port()
    command = [Path(sys.executable).parent / "gunicorn", "agency_backend.wsgi", "--bind", f"127.0.0.1:{port}"]
    return _running(command, port, environment_on(database_url, **variables))


def development_server(database_url):
    """Run ``manage.py runserver`` on a free port. Yields its host and port."""
    port = free_port()
    command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"]
    return _running(command, port, environment_on(database_url, DJANGO_DEBUG="1"))


@contextmanager
def _running(command, port, environment):
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        wait_until_it_listens(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def request(server, method, path, body=None, **headers):
    """Send one request. Return the status, headers and JSON of the answer."""
    client = http.client.HTTPConnection(server, timeout=120)
    try:
        client.request(method, path, body, headers)
        response = client.getresponse()
        content = response.read()
        return response.status, response.headers, json.loads(content) if content else None
    finally:
        client.close()


def exchange(server, head, body=b""):
    """
    Send a request as it is, and nothing after it. Return the status and the JSON of the answer, or None if it has none.

    A server that closes the connection before it has read everything resets it, and the answer may be lost. So the
    request is sent up to three times.

    :param head: the request line and the headers without ``Host``, as lines.
    """
    for _ in range(2):
        with suppress(ConnectionResetError, BrokenPipeError):
            return _exchange_once(server, head, body)
    return _exchange_once(server, head, body)


def _exchange_once(server, head, body):
    host, _, port = server.partition(":")
    line, *headers = head
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall("\r\n".join([line, "Host: 127.0.0.1", *headers, "", ""]).encode() + body)
        # Not connected: the server has reset the connection already.
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(client)
        response.begin()
        content = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, json.loads(content) if is_json else None
