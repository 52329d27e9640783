"""
The promise as a whole, under everything at once.

Four workers and a web server, each killed at random; a provider that is busy, slow, or does not say; webhooks that
come late; an old service that reads the batch's status and then claims contacts by SQL. In each round somebody cancels
a batch through the API. From the answer on, nobody of it is claimed.
"""

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connections
from django.db.models import QuerySet

from calls.dialler.sweep import run_sweep
from calls.models import CallBatch
from calls.statuses import FINAL
from calls.tests.support.deployment import Cancelled, called_twice, deployed, settled
from calls.tests.support.factories import checked_counters, plain_connection
from calls.tests.support.provider import Answer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.own_tables,
    pytest.mark.usefixtures("empty_queue"),
]

logger = logging.getLogger(__name__)

ROUNDS, AT_ONCE = 200, 8

READ = """
    SELECT batch.id, contact.id FROM call_batches batch JOIN campaign_contacts contact ON contact.batch_id = batch.id
    WHERE batch.status = 'processing' AND contact.status IN ('pending', 'queued') ORDER BY random() LIMIT 1
"""
CLAIM = """
    UPDATE campaign_contacts
    SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = now(), outcome = NULL
    WHERE id = %s AND status IN ('pending', 'queued', 'skipped') RETURNING last_attempt_at
"""
CLAIMED = "UPDATE call_batches SET queued = queued - 1, in_progress = in_progress + 1 WHERE id = %s"
END = """
    UPDATE campaign_contacts SET status = 'completed', outcome = 'theirs', completed_at = now()
    WHERE id = %s AND status = 'in_progress' AND last_attempt_at = %s
"""
ENDED = "UPDATE call_batches SET in_progress = in_progress - 1, completed = completed + 1 WHERE id = %s"


class OldService(threading.Thread):
    """Reads a batch's status, takes its time, then claims somebody; like an edge function, by plain SQL."""

    def __init__(self, over):
        super().__init__(daemon=True)
        self.over, self.claimed, self.refused = over, 0, 0

    def run(self):
        with plain_connection() as plain:
            while not self.over.wait(random.uniform(0.01, 0.05)):
                row = plain.execute(READ).fetchone()
                time.sleep(random.uniform(0, 0.3))
                if row:
                    self.claim(plain, *row)

    def claim(self, plain, batch_id, contact_id):
        try:
            with plain.transaction():
                claimed = plain.execute(CLAIM, [contact_id]).fetchone()
                if claimed:
                    plain.execute(CLAIMED, [batch_id])
        except psycopg.errors.CheckViolation:
            self.refused += 1
            return
        except psycopg.errors.DeadlockDetected:
            return
        if claimed:
            self.claimed += 1
            # Now and then it takes so long that a sweep finds no such call, and gives the contact back.
            time.sleep(5 if random.random() < 0.05 else random.uniform(0, 0.05))
            self.end(plain, batch_id, contact_id, *claimed)

    def end(self, plain, batch_id, contact_id, claimed_at):
        while True:
            try:
                with plain.transaction():
                    if plain.execute(END, [contact_id, claimed_at]).rowcount:
                        plain.execute(ENDED, [batch_id])
                return
            except psycopg.errors.DeadlockDetected:
                continue


class MoodyAnswers:
    """Now and then the provider is busy, breaks, or hangs up, with or without a call."""

    def __bool__(self):
        return random.random() < 0.1

    def popleft(self):
        return random.choice(
            [
                Answer(429, headers={"Retry-After": "0"}, places=False),
                Answer(503, headers={"Retry-After": "0"}, places=False),
                Answer(422, places=False),
                Answer(500, places=random.random() < 0.5),
                Answer(hangs_up=True, places=random.random() < 0.5),
                Answer(after=0.3),
            ]
        )


def a_batch(tenant):
    batch = tenant.batch("pending", pending=random.randint(3, 25))
    CallBatch.objects.filter(pk=batch.pk).update(max_concurrent=random.randint(2, 20))
    batch.contacts.update(max_attempts=random.randint(1, 3))
    return batch


def a_round(tenant, deployment):
    """Cancel a batch at some moment, and see how it stands at the answer."""
    try:
        batch = a_batch(tenant)
        time.sleep(random.uniform(0, 2.5))
        return Cancelled.now(batch, deployment.cancel(batch, tenant.owner))
    finally:
        connections.close_all()


@pytest.fixture
def under_everything(harbour, ultravox, settings):
    settings.ULTRAVOX_TIMEOUT = 1
    harbour.agency.webhook_secret = "the-secret-of-the-address"
    harbour.agency.save()
    ultravox.answers, ultravox.late, ultravox.lasts = MoodyAnswers(), 0.5, (0.05, 0.3)
    with deployed(ultravox, harbour.agency, workers=4) as deployment:
        yield deployment


def test_whatever_happens_nobody_is_claimed_once_the_cancel_was_answered(harbour, ultravox, under_everything):
    over = threading.Event()
    old_service = OldService(over)
    old_service.start()
    kills = {"worker": 0, "server": 0}

    def kill_at_random():
        while not over.wait(random.uniform(1, 3)):
            kills["worker"] += 1
            under_everything.kill_a_worker()
            if random.random() < 0.3:
                kills["server"] += 1
                under_everything.kill_the_server()
            run_sweep()
        connections.close_all()

    killer = threading.Thread(target=kill_at_random, daemon=True)
    killer.start()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        rounds = list(threads.map(lambda _: a_round(harbour, under_everything), range(ROUNDS)))
    over.set()
    killer.join()
    old_service.join()
    deadline = time.monotonic() + 60
    while not settled() and time.monotonic() < deadline:
        run_sweep()
        time.sleep(0.5)

    said = [cancelled.answer.get("status") for cancelled in rounds]
    logger.info(
        "%s rounds: %s cancelled, %s over before; %s calls asked for; by SQL %s claimed, %s refused; killed: %s",
        *(ROUNDS, said.count("cancelled"), said.count("completed"), len(ultravox.asked)),
        *(old_service.claimed, old_service.refused, kills),
    )
    for cancelled in rounds:
        batch = CallBatch.objects.get(pk=cancelled.batch.pk)
        assert cancelled.claimed_since() == []
        assert cancelled.asked_since(ultravox) == []
        assert batch.status == cancelled.answer["status"]
        assert batch.status in FINAL
        checked_counters(batch)
        assert not batch.contacts.unfinished().exists()
    assert called_twice(ultravox) == []
    assert said.count("cancelled") > ROUNDS / 2
    assert old_service.claimed > 0
    assert old_service.refused > 0


def test_control_without_the_lock_somebody_is_claimed_after_the_answer_within_a_few_rounds(
    harbour, ultravox, without_guards, monkeypatch
):
    harbour.agency.webhook_secret = "the-secret-of-the-address"
    harbour.agency.save()
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, *args, **kwargs: self)
    with deployed(
        ultravox, harbour.agency, workers=2, DJANGO_SETTINGS_MODULE="calls.tests.support.without_lock"
    ) as deployment:
        for _ in range(20):
            cancelled = a_round(harbour, deployment)
            time.sleep(0.2)
            if cancelled.claimed_since():
                return
    pytest.fail("20 rounds without the lock, and nobody was claimed after the answer")
