"""The voice provider's stand-in: a small HTTP server that speaks Ultravox's protocol and records what it is asked."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx

KEY = "the-provider-s-key"


def iso(at):
    return datetime.fromtimestamp(at, UTC).isoformat()


@dataclass(frozen=True)
class Asked:
    """One request to place a call."""

    at: float
    path: str
    key: str | None
    body: dict

    @property
    def metadata(self):
        return self.body["metadata"]

    @property
    def attempt(self):
        """Whose attempt it is."""
        return self.metadata["contact_id"], int(self.metadata["attempt"])


@dataclass(frozen=True)
class Answer:
    """How to answer one request: ``places`` says whether there is a call from then on, whatever the answer says."""

    status: int = 201
    body: str | None = None
    headers: dict = field(default_factory=dict)
    places: bool = True
    after: float = 0
    hangs_up: bool = False


class Provider(ThreadingHTTPServer):
    """
    ``asked`` has every request to place a call, ``calls`` every call there is.

    Answers are taken from ``answers``, then from ``otherwise``, and none is given while ``open`` is not set. With
    ``webhook`` set to an address, each call has a life of its own, whose events are delivered there until they are
    taken.
    """

    # Its threads end when their clients do, and are waited for.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked, self.calls = [], {}
        self.answers, self.otherwise = deque(), Answer()
        self.open = threading.Event()
        self.open.set()
        self.lists_everything, self.page_size, self.listed = False, 100, None
        self.webhook, self.lasts, self.unanswered, self.late = None, (0.2, 1.0), 0.2, 0.0
        self.lock = threading.Lock()
        self.client = httpx.Client(timeout=10)

    def handle_error(self, request, client_address):
        """A client that has gone is nothing to tell."""

    def place(self, body):
        """There is a call now."""
        now = time.time()
        call = {
            "callId": str(uuid.uuid4()),
            "created": iso(now),
            "joined": None,
            "ended": None,
            "endReason": None,
            "metadata": body.get("metadata") or {},
        }
        with self.lock:
            self.calls[call["callId"]] = call
        if self.webhook:
            self.live(call)
        return call

    def live(self, call):
        lasts = random.uniform(*self.lasts)
        answered = random.random() >= self.unanswered
        self.later(0, "call.started", call)
        if answered:
            self.later(lasts / 3, "call.joined", call, joined=True)
        end = {"ended": True, "endReason": "hangup" if answered else "unjoined"}
        self.later(lasts + random.uniform(0, self.late), "call.ended", call, **end)

    def later(self, after, event, call, **changes):
        """Deliver an event, until it is taken, after so many seconds."""

        def deliver():
            call.update({key: iso(time.time()) if value is True else value for key, value in changes.items()})
            said = json.dumps({"event": event, "call": call})
            delay, taken = 0.05, False
            while not taken and self.webhook:
                with suppress(httpx.HTTPError):
                    taken = self.client.post(self.webhook, content=said).is_success
                if not taken:
                    time.sleep(delay)
                    delay = min(delay * 2, 1)

        timer = threading.Timer(after, deliver)
        timer.daemon = True
        timer.start()

    def end(self, call, reason="hangup", *, joined=True):
        """The call is over, and nobody has been told."""
        call.update(joined=iso(time.time() - 30) if joined else None, ended=iso(time.time()), endReason=reason)


class Handler(BaseHTTPRequestHandler):
    server: Provider
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        provider = self.server
        with provider.lock:
            provider.asked.append(Asked(time.time(), self.path, self.headers["X-API-Key"], body))
            answer = provider.answers.popleft() if provider.answers else provider.otherwise
        call = provider.place(body) if answer.places else None
        time.sleep(answer.after)
        provider.open.wait()
        if answer.hangs_up:
            self.close_connection = True
            return
        self.answer(answer.status, answer.body or json.dumps(call), answer.headers)

    def do_GET(self):
        address = urlsplit(self.path)
        with self.server.lock:
            calls = list(self.server.calls.values())
        if address.path == "/api/calls":
            wanted = {
                name.removeprefix("metadata."): values
                for name, values in parse_qs(address.query).items()
                if name.startswith("metadata.")
            }
            if not self.server.lists_everything:
                calls = [
                    call
                    for call in calls
                    if all(call["metadata"].get(name) in values for name, values in wanted.items())
                ]
            return self.answer(200, self.server.listed or self.page(calls, address))
        call = self.server.calls.get(address.path.removeprefix("/api/calls/"))
        return self.answer(200, json.dumps(call)) if call else self.answer(404, "{}")

    def page(self, calls, address):
        start = int(parse_qs(address.query).get("cursor", ["0"])[0])
        end = start + self.server.page_size
        following = f"{self.server.url}{self.path.partition('&cursor')[0]}&cursor={end}" if end < len(calls) else None
        return json.dumps({"next": following, "results": calls[start:end], "total": len(calls)})

    def answer(self, status, body, headers=None):
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """What it was asked is in ``asked``."""


@contextmanager
def provider_running():
    provider = Provider()
    thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.webhook = None
        provider.open.set()
        provider.shutdown()
        provider.server_close()
        provider.client.close()
