"""A whole deployment on the test's database: a web server, workers and a clock, with the fake provider."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from django.db import connections

from calls import tasks
from calls.api.authentication import issue_token
from calls.models import CallBatch, CampaignContact
from calls.tests.support.factories import FUNCTIONS, ROOT, URL
from calls.tests.support.provider import KEY
from calls.tests.support.server import database_url, environment_on, free_port, wait_until_it_listens
from calls.tests.support.workers import start_worker


class Deployment:
    """
    gunicorn, ``workers`` worker processes, and a thread that starts a round every ``tick`` seconds.

    ``agencies`` are the agencies by the keys of their accounts at the provider, which delivers the events of each
    account to its agency's address.
    """

    def __init__(self, provider, agencies, *, workers, tick=0.2, **variables):
        self.provider, self.port = provider, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "ULTRAVOX_API_URL": provider.url,
            "ULTRAVOX_API_KEY": KEY,
            "ULTRAVOX_TIMEOUT": "1",
            "RETRY_PAUSE": "0",
            "LOG_LEVEL": "ERROR",
            **variables,
        }
        provider.webhooks |= {
            key: f"{self.address}/functions/v1/webhook-ingest/{agency.pk}/{agency.webhook_secret}"
            for key, agency in agencies.items()
        }
        self.server = self.start_server()
        self.workers = [start_worker(**self.variables) for _ in range(workers)]
        self.tick, self.stopped = tick, threading.Event()
        self.clock = threading.Thread(target=self.keep_ticking, daemon=True)

    def start_server(self):
        gunicorn = [Path(sys.executable).parent / "gunicorn", "agency_backend.wsgi", "--bind", f"127.0.0.1:{self.port}"]
        # In its own process group, so that kill_server() kills gunicorn's workers too.
        return subprocess.Popen(
            [*gunicorn, "--log-level", "critical"],
            cwd=ROOT,
            env=environment_on(database_url(), **self.variables),
            start_new_session=True,
        )

    def keep_ticking(self):
        while not self.stopped.wait(self.tick):
            tasks.dial_due_batches(0)
        connections.close_all()

    def kill_random_worker(self):
        """Kill a worker with SIGKILL and start another one."""
        number = random.randrange(len(self.workers))
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = start_worker(**self.variables)

    def kill_server(self):
        """Kill the web server with SIGKILL and start another one."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        self.server = self.start_server()
        wait_until_it_listens(self.port)

    def post(self, path, owner, **body):
        """Send a POST request until it is answered without a server error. Return the JSON of the answer."""
        headers = {"Authorization": f"Bearer {issue_token(owner)}"}
        while True:
            try:
                answer = httpx.post(self.address + path, json=body, headers=headers, timeout=30)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status_code < 500:
                return answer.json()

    def cancel(self, batch, owner):
        """Cancel through the API and return the JSON of the answer."""
        return self.post(URL, owner, batch_id=str(batch.pk))

    def create(self, owner, **body):
        """Create a batch through the API and return the JSON of the answer."""
        headers = {"Authorization": f"Bearer {issue_token(owner)}"}
        return httpx.post(f"{self.address}{FUNCTIONS}create", json=body, headers=headers, timeout=30).json()

    def stop(self):
        self.stopped.set()
        self.clock.join()
        for process in self.workers:
            process.terminate()
        self.server.terminate()
        for process in (*self.workers, self.server):
            process.wait(30)


@contextmanager
def running_deployment(provider, agencies, **options):
    deployment = Deployment(provider, agencies, **options)
    try:
        wait_until_it_listens(deployment.port)
        deployment.clock.start()
        yield deployment
    finally:
        deployment.stop()


@dataclass(frozen=True)
class AnsweredCancel:
    """
    The answer to a cancel, and the batch's contacts right after it.

    ``attempts`` maps the id of each contact to its number of attempts. ``not_placed`` has the ids of the contacts whose
    latest call the provider did not accept.
    """

    batch: CallBatch
    answer: dict
    at: float
    attempts: dict
    not_placed: frozenset

    @classmethod
    def record(cls, batch, answer):
        """Record the state of the batch. Call this right after the answer has arrived."""
        at = time.time()
        contacts = {str(pk): row for pk, *row in batch.contacts.values_list("pk", "attempts", "outcome")}
        return cls(
            batch,
            answer,
            at,
            {contact: attempts or 0 for contact, (attempts, _) in contacts.items()},
            frozenset(contact for contact, (_, outcome) in contacts.items() if outcome == "not_placed"),
        )

    def claimed_later(self):
        """Return the contacts that were claimed after the answer."""
        attempts = self.batch.contacts.values_list("pk", "attempts")
        return [contact for contact, now in attempts if (now or 0) > self.attempts[str(contact)]]

    def requests(self, provider):
        """Return the placement requests for the batch that the provider recorded."""
        with provider.lock:
            return [asked for asked in provider.asked if asked.metadata["batch_id"] == str(self.batch.pk)]

    def requests_without_claim(self, provider):
        """Return the placement requests that arrived after the answer, for attempts not claimed before it."""
        return [
            asked
            for asked in self.requests(provider)
            for contact, attempt in [asked.attempt]
            # ``attempts`` lacks a claim that was released before ``record``, but it was made before the answer.
            if asked.at > self.at and attempt > self.attempts[contact] + (contact in self.not_placed)
        ]


def attempts_called_twice(provider):
    """Return the attempts for which the provider has more than one call."""
    with provider.lock:
        attempts = Counter(
            (call["metadata"]["contact_id"], call["metadata"]["attempt"]) for call in provider.calls.values()
        )
    return [attempt for attempt, count in attempts.items() if count > 1]


def has_calls_in_progress():
    """Return whether any contact is in progress."""
    return CampaignContact.objects.filter(status="in_progress").exists()
