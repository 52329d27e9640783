"""A fake of the voice provider: an HTTP server that speaks Ultravox's protocol and records the requests it gets."""

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


def _iso(timestamp):
    return datetime.fromtimestamp(timestamp, UTC).isoformat()


@dataclass(frozen=True)
class PlacementRequest:
    """A request to place a call. ``at`` is the time at which it arrived."""

    at: float
    path: str
    key: str | None
    body: dict

    @property
    def agent(self):
        return self.path.split("/")[3]

    @property
    def metadata(self):
        return self.body["metadata"]

    @property
    def attempt(self):
        """The contact's id and the number of the attempt."""
        return self.metadata["contact_id"], int(self.metadata["attempt"])


@dataclass(frozen=True)
class Answer:
    """
    The answer to one placement request.

    ``places_call`` says whether the request creates a call, whatever ``status`` tells the client. ``delay`` is in
    seconds. With ``drops_connection`` no answer is sent.
    """

    status: int = 201
    body: str | None = None
    headers: dict = field(default_factory=dict)
    places_call: bool = True
    delay: float = 0
    drops_connection: bool = False


class FakeProvider(ThreadingHTTPServer):
    """
    ``asked`` has every placement request, and ``calls`` has every call by its id.

    Each placement request gets the next of ``next_answers``, or ``default_answer`` when there is none. No placement
    request is answered while ``may_answer`` is not set.

    ``accounts`` are the ids of the agents by the key of their account. A request with another key gets 401, an agent of
    another account 404, and each account finds only its own calls. Without ``accounts``, every key and agent is known,
    and finds every call.

    ``webhooks`` are URLs by the key of their account. Each call of such an account starts, is joined and ends by
    itself, and each event is delivered to the account's URL until it is accepted.
    """

    # server_close() waits for the threads of the requests.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked, self.calls, self.accounts, self.keys = [], {}, {}, {}
        self.next_answers, self.default_answer = deque(), Answer()
        self.may_answer = threading.Event()
        self.may_answer.set()
        # The list of calls: whether it ignores the metadata filter, and a body that it answers instead of the calls.
        self.ignores_filter, self.page_size, self.listed = False, 100, None
        # Calls with a webhook: their shortest and longest duration, the share that is not answered, and the longest
        # delay of the last event. All times are in seconds.
        self.webhooks, self.call_seconds, self.unanswered_share, self.webhook_delay = {}, (0.2, 1.0), 0.2, 0.0
        self.lock = threading.Lock()
        self.client = httpx.Client(timeout=10)

    def handle_error(self, request, client_address):
        """Do not print a traceback when a client disconnects."""

    def add_call(self, body, key=None):
        """Create the call that ``body`` requests, in the account of ``key``."""
        now = time.time()
        call = {
            "callId": str(uuid.uuid4()),
            "created": _iso(now),
            "joined": None,
            "ended": None,
            "endReason": None,
            "metadata": body.get("metadata") or {},
        }
        with self.lock:
            self.calls[call["callId"]], self.keys[call["callId"]] = call, key
        if key in self.webhooks:
            self._schedule_events(call)
        return call

    def end_call(self, call, reason="hangup", *, joined=True):
        """End the call without delivering an event."""
        call.update(joined=_iso(time.time() - 30) if joined else None, ended=_iso(time.time()), endReason=reason)

    def _schedule_events(self, call):
        duration = random.uniform(*self.call_seconds)
        is_answered = random.random() >= self.unanswered_share
        self._deliver_later(0, "call.started", call)
        if is_answered:
            self._deliver_later(duration / 3, "call.joined", call, joined=True)
        end = {"ended": True, "endReason": "hangup" if is_answered else "unjoined"}
        self._deliver_later(duration + random.uniform(0, self.webhook_delay), "call.ended", call, **end)

    def _deliver_later(self, seconds, event, call, **changes):
        """
        After ``seconds``, change the call and deliver an event until it is accepted.

        A change to True sets the current time.
        """

        def deliver():
            call.update({key: _iso(time.time()) if value is True else value for key, value in changes.items()})
            body = json.dumps({"event": event, "call": call})
            delay, is_accepted = 0.05, False
            while not is_accepted and (webhook := self.webhooks.get(self.keys[call["callId"]])):
                with suppress(httpx.HTTPError):
                    is_accepted = self.client.post(webhook, content=body).is_success
                if not is_accepted:
                    time.sleep(delay)
                    delay = min(delay * 2, 1)

        timer = threading.Timer(seconds, deliver)
        timer.daemon = True
        timer.start()


class Handler(BaseHTTPRequestHandler):
    server: FakeProvider
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        provider, key = self.server, self.headers["X-API-Key"]
        with provider.lock:
            asked = PlacementRequest(time.time(), self.path, key, body)
            provider.asked.append(asked)
            if provider.accounts and key not in provider.accounts:
                answer = Answer(401, places_call=False)
            elif provider.accounts and asked.agent not in provider.accounts[key]:
                answer = Answer(404, places_call=False)
            else:
                answer = provider.next_answers.popleft() if provider.next_answers else provider.default_answer
        call = provider.add_call(body, key) if answer.places_call else None
        time.sleep(answer.delay)
        provider.may_answer.wait()
        if answer.drops_connection:
            self.close_connection = True
            return
        self._send(answer.status, answer.body or json.dumps(call), answer.headers)

    def do_GET(self):
        address, key = urlsplit(self.path), self.headers["X-API-Key"]
        if self.server.accounts and key not in self.server.accounts:
            return self._send(401, "{}")
        with self.server.lock:
            own = {
                call_id: call
                for call_id, call in self.server.calls.items()
                if not self.server.accounts or self.server.keys.get(call_id) == key
            }
        calls = list(own.values())
        if address.path == "/api/calls":
            wanted = {
                name.removeprefix("metadata."): values
                for name, values in parse_qs(address.query).items()
                if name.startswith("metadata.")
            }
            if not self.server.ignores_filter:
                calls = [
                    call
                    for call in calls
                    if all(call["metadata"].get(name) in values for name, values in wanted.items())
                ]
            return self._send(200, self.server.listed or self._page(calls, address))
        call = own.get(address.path.removeprefix("/api/calls/"))
        return self._send(200, json.dumps(call)) if call else self._send(404, "{}")

    def _page(self, calls, address):
        start = int(parse_qs(address.query).get("cursor", ["0"])[0])
        end = start + self.server.page_size
        following = f"{self.server.url}{self.path.partition('&cursor')[0]}&cursor={end}" if end < len(calls) else None
        return json.dumps({"next": following, "results": calls[start:end], "total": len(calls)})

    def _send(self, status, body, headers=None):
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Do not print requests: tests read ``asked``."""


@contextmanager
def fake_provider():
    """Run a fake provider in a thread."""
    provider = FakeProvider()
    thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.webhooks.clear()
        provider.may_answer.set()
        provider.shutdown()
        provider.server_close()
        provider.client.close()
