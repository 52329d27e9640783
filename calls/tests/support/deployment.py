"""All of it at work: the web server, workers, and the provider's stand-in, each a process of its own or a thread."""

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
from calls.tests.support.factories import ROOT, URL
from calls.tests.support.provider import KEY
from calls.tests.support.server import database_url, environment_on, free_port, wait_until_it_listens
from calls.tests.support.workers import start_worker


class Deployment:
    """A web server, so many workers, and a clock that ticks faster than once a minute."""

    def __init__(self, provider, agency, *, workers, tick=0.2, **variables):
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
        provider.webhook = f"{self.address}/functions/v1/webhook-ingest/{agency.pk}/{agency.webhook_secret}"
        self.server = self.start_server()
        self.workers = [start_worker(**self.variables) for _ in range(workers)]
        self.tick, self.over = tick, threading.Event()
        self.clock = threading.Thread(target=self.keep_ticking, daemon=True)

    def start_server(self):
        gunicorn = [Path(sys.executable).parent / "gunicorn", "agency_backend.wsgi", "--bind", f"127.0.0.1:{self.port}"]
        # A group of its own, to be killed as one.
        return subprocess.Popen(
            [*gunicorn, "--log-level", "critical"],
            cwd=ROOT,
            env=environment_on(database_url(), **self.variables),
            start_new_session=True,
        )

    def keep_ticking(self):
        while not self.over.wait(self.tick):
            tasks.dial_due_batches(0)
        connections.close_all()

    def kill_a_worker(self):
        """-9, in the middle of whatever it does, and another in its place."""
        number = random.randrange(len(self.workers))
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = start_worker(**self.variables)

    def kill_the_server(self):
        """Likewise."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        self.server = self.start_server()
        wait_until_it_listens(self.port)

    def cancel(self, batch, owner):
        """Cancel through the API, asked until there is an answer; its JSON."""
        headers = {"Authorization": f"Bearer {issue_token(owner)}"}
        while True:
            try:
                answer = httpx.post(self.address + URL, json={"batch_id": str(batch.pk)}, headers=headers, timeout=30)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status_code != 500:
                return answer.json()

    def stop(self):
        self.over.set()
        self.clock.join()
        for process in self.workers:
            process.terminate()
        self.server.terminate()
        for process in (*self.workers, self.server):
            process.wait(30)


@contextmanager
def deployed(provider, agency, **options):
    deployment = Deployment(provider, agency, **options)
    try:
        wait_until_it_listens(deployment.port)
        deployment.clock.start()
        yield deployment
    finally:
        deployment.stop()


@dataclass(frozen=True)
class Cancelled:
    """How a batch stood when its cancel had been answered: what was said, when, and how often each had been claimed."""

    batch: CallBatch
    answer: dict
    at: float
    claims: dict
    given_back: frozenset

    @classmethod
    def now(cls, batch, answer):
        at = time.time()
        contacts = {str(pk): row for pk, *row in batch.contacts.values_list("pk", "attempts", "outcome")}
        return cls(
            batch,
            answer,
            at,
            {contact: attempts or 0 for contact, (attempts, _) in contacts.items()},
            frozenset(contact for contact, (_, outcome) in contacts.items() if outcome == "not_placed"),
        )

    def claimed_since(self):
        """Contacts that have been claimed once more since then."""
        attempts = self.batch.contacts.values_list("pk", "attempts")
        return [contact for contact, now in attempts if (now or 0) > self.claims[str(contact)]]

    def asked_for(self, provider):
        """What the provider's own log says of the batch."""
        with provider.lock:
            return [asked for asked in provider.asked if asked.metadata["batch_id"] == str(self.batch.pk)]

    def asked_since(self, provider):
        """Calls that were asked for since then, for somebody who had not been claimed."""
        return [
            asked
            for asked in self.asked_for(provider)
            for contact, attempt in [asked.attempt]
            # An attempt that the provider did not take is not counted, and may have been in hand at that moment.
            if asked.at > self.at and attempt > self.claims[contact] + (contact in self.given_back)
        ]


def called_twice(provider):
    """Attempts for which there is more than one call."""
    with provider.lock:
        attempts = Counter(
            (call["metadata"]["contact_id"], call["metadata"]["attempt"]) for call in provider.calls.values()
        )
    return [attempt for attempt, count in attempts.items() if count > 1]


def settled():
    """Whether nobody is being called any more."""
    return not CampaignContact.objects.filter(status="in_progress").exists()
