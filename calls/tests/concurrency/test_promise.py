"""
The promise of a cancel, under all faults at the same time.

Four agencies have an account each at the provider, a limit of calls in progress, and batches that share numbers. Four
workers and a web server are killed at random. The provider is busy, slow, or gives unclear answers. Webhooks arrive
late. In two of the agencies another service lists contacts and later claims one of them by its id, even if it was
claimed or skipped meanwhile. Each round cancels a batch through the API. After the answer, no contact of the batch is
claimed. Meanwhile a user holds one agency after the other. From the answer until its release, no contact of the agency
is claimed.
"""

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import psycopg
import pytest
from cryptography.fernet import Fernet
from django.db import connections, transaction
from django.db.models import QuerySet

from calls.dialler.sweep import run_sweep
from calls.models import CallBatch
from calls.statuses import DIALABLE, FINAL, ContactStatus
from calls.tests.support.accounts import set_key
from calls.tests.support.deployment import (
    AnsweredCancel,
    attempts_called_twice,
    has_calls_in_progress,
    running_deployment,
)
from calls.tests.support.factories import Tenant, checked_counters, plain_connection
from calls.tests.support.functions import HOLD, RELEASE
from calls.tests.support.provider import KEY, Answer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.acceptance,
    pytest.mark.not_adopted,
    pytest.mark.usefixtures("empty_queue"),
]

logger = logging.getLogger(__name__)

ROUNDS, CONCURRENT_ROUNDS = 200, 8
OTHER_DIALLERS = 3
# Another service, which knows no limits, also dials the batches of the agencies in SHARED.
OWN, SHARED = ["harbour", "bluebell"], ["anchor", "cypress"]
AGENCY_LIMIT = 6
# So few that the batches of an agency often have the same ones.
NUMBERS = range(12125550100, 12125550140)

FIND_CONTACT = """
    SELECT batch.id, contact.id FROM call_batches batch JOIN campaign_contacts contact ON contact.batch_id = batch.id
    JOIN agencies agency ON agency.id = batch.agency_id
    WHERE batch.status = 'processing' AND contact.status IN ('pending', 'queued') AND agency.slug = ANY(%s)
    ORDER BY random() LIMIT 1
"""
CLAIM_CONTACT = """
    WITH listed AS (SELECT id, status FROM campaign_contacts WHERE id = %s FOR UPDATE)
    UPDATE campaign_contacts contact
    SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = now(), outcome = NULL
    FROM listed WHERE contact.id = listed.id AND listed.status NOT IN ('completed', 'failed')
    RETURNING contact.last_attempt_at, listed.status
"""
COUNT_CLAIM = "UPDATE call_batches SET queued = queued - 1, in_progress = in_progress + 1 WHERE id = %s"
END_CALL = """
    UPDATE campaign_contacts SET status = 'completed', outcome = 'other service', completed_at = now()
    WHERE id = %s AND status = 'in_progress' AND last_attempt_at = %s
"""
COUNT_END = "UPDATE call_batches SET in_progress = in_progress - 1, completed = completed + 1 WHERE id = %s"

LATEST_CLAIMS = """
    SELECT contact.id, contact.last_attempt_at
    FROM campaign_contacts contact JOIN call_batches batch ON batch.id = contact.batch_id
    WHERE batch.agency_id = %s AND contact.last_attempt_at IS NOT NULL
"""

# Of each agency: its calls in progress, and the most of them to one number.
IN_PROGRESS = """
    SELECT sum(calls), max(calls)
    FROM (
        SELECT agency.id, count(*) AS calls
        FROM campaign_contacts contact JOIN agencies agency ON agency.id = contact.agency_id
        WHERE contact.status = 'in_progress' AND agency.slug = ANY(%s) GROUP BY agency.id, phone_number
    ) AS numbers
    GROUP BY id
"""
WAITING_FOR_NUMBER = """
    SELECT FROM campaign_contacts calling JOIN campaign_contacts waiting USING (agency_id, phone_number)
    JOIN call_batches batch ON batch.id = waiting.batch_id AND batch.status = 'processing'
    WHERE calling.status = 'in_progress' AND waiting.status = 'queued' AND waiting.batch_id <> calling.batch_id LIMIT 1
"""


class OtherDialler(threading.Thread):
    """
    Another service that finds a dialable contact, waits, and then claims it by its id.

    It has two workers with the same list, so it often claims the contact a second time.
    """

    def __init__(self, stopped):
        super().__init__(daemon=True)
        self.stopped, self.claimed, self.claimed_again, self.refused = stopped, 0, 0, 0

    def run(self):
        with plain_connection() as plain:
            while not self.stopped.wait(random.uniform(0.01, 0.05)):
                row = plain.execute(FIND_CONTACT, [SHARED]).fetchone()
                time.sleep(random.uniform(0, 0.3))
                if row and (claimed_at := self.claim(plain, *row)):
                    if random.random() < 0.5:
                        time.sleep(random.uniform(0, 0.3))
                        claimed_at = self.claim(plain, *row) or claimed_at
                    # Sometimes this takes so long that a sweep finds no call and releases the claim.
                    time.sleep(5 if random.random() < 0.05 else random.uniform(0, 0.05))
                    self.end(plain, *row, claimed_at)

    def claim(self, plain, batch_id, contact_id):
        """Return the time of the claim, or None if there is none."""
        try:
            with plain.transaction():
                claimed_at, status = plain.execute(CLAIM_CONTACT, [contact_id]).fetchone() or (None, None)
                if status in DIALABLE:
                    plain.execute(COUNT_CLAIM, [batch_id])
        except psycopg.errors.CheckViolation:
            self.refused += 1
            return None
        except psycopg.errors.DeadlockDetected:
            return None
        self.claimed += status in DIALABLE
        self.claimed_again += status == ContactStatus.IN_PROGRESS
        return claimed_at

    def end(self, plain, batch_id, contact_id, claimed_at):
        while True:
            try:
                with plain.transaction():
                    if plain.execute(END_CALL, [contact_id, claimed_at]).rowcount:
                        plain.execute(COUNT_END, [batch_id])
                return
            except psycopg.errors.DeadlockDetected:
                continue


class Observer(threading.Thread):
    """
    Reads the calls in progress again and again, in the agencies whose batches only our own workers dial.

    ``most`` is the largest number of calls that an agency had in progress, and ``most_to_number`` of those to one
    number. ``waits`` counts how often a contact waited while its number was being called in another batch.
    """

    def __init__(self, stopped):
        super().__init__(daemon=True)
        self.stopped, self.most, self.most_to_number, self.waits = stopped, 0, 0, 0

    def run(self):
        with plain_connection() as plain:
            while not self.stopped.wait(0.03):
                for calls, to_number in plain.execute(IN_PROGRESS, [OWN]):
                    self.most, self.most_to_number = max(self.most, calls), max(self.most_to_number, to_number)
                self.waits += plain.execute(WAITING_FOR_NUMBER).rowcount


class Holder(threading.Thread):
    """
    Hold a random agency through the API for a moment, and release it, again and again.

    ``late`` has the contacts that were claimed while their agency was on hold.
    """

    def __init__(self, stopped, tenants, deployment):
        super().__init__(daemon=True)
        self.stopped, self.tenants, self.deployment = stopped, tenants, deployment
        self.holds, self.late = 0, set()

    def run(self):
        with plain_connection() as plain:
            while not self.stopped.wait(random.uniform(0.5, 1.5)):
                tenant = random.choice(self.tenants)
                assert self.deployment.post(HOLD, tenant.owner)["success"]
                claimed = self.claims(plain, tenant)
                time.sleep(random.uniform(0.1, 0.5))
                self.late |= self.claims(plain, tenant) - claimed
                assert self.deployment.post(RELEASE, tenant.owner)["success"]
                self.holds += 1

    def claims(self, plain, tenant):
        return set(plain.execute(LATEST_CLAIMS, [tenant.agency.pk]).fetchall())


class UnreliableAnswers:
    """
    Sometimes the provider is busy, fails, or drops the connection, with or without placing the call.

    It is seldom busy, because each busy answer holds its account for five seconds.
    """

    def __bool__(self):
        return random.random() < 0.1

    def popleft(self):
        if random.random() < 0.1:
            return Answer(random.choice([429, 503]), headers={"Retry-After": "0"}, places_call=False)
        return random.choice(
            [
                Answer(422, places_call=False),
                Answer(500, places_call=random.random() < 0.5),
                Answer(drops_connection=True, places_call=random.random() < 0.5),
                Answer(delay=0.3),
            ]
        )


@transaction.atomic
def create_batch(tenant):
    batch = tenant.batch("pending", pending=random.randint(3, 25))
    CallBatch.objects.filter(pk=batch.pk).update(max_concurrent=random.randint(2, 20))
    batch.contacts.update(max_attempts=random.randint(1, 3))
    return batch


def run_round(tenant, deployment):
    """Create a batch, cancel it at a random moment and record the answer."""
    try:
        batch = create_batch(tenant)
        time.sleep(random.uniform(0, 2.5))
        return AnsweredCancel.record(batch, deployment.cancel(batch, tenant.owner))
    finally:
        connections.close_all()


@pytest.fixture
def tenants(ultravox, settings):
    """Agencies by the key of their own account. Each has a limit and few numbers."""
    settings.CREDENTIALS_KEYS, settings.ULTRAVOX_API_KEY = [Fernet.generate_key().decode()], ""
    tenants = {f"the-key-of-{slug}": Tenant.create(slug) for slug in (*OWN, *SHARED)}
    for key, tenant in tenants.items():
        tenant.agency.max_concurrent_calls, tenant.agency.webhook_secret = AGENCY_LIMIT, f"the-secret-of-{key}"
        tenant.agency.save()
        tenant.numbers = iter(lambda: random.choice(NUMBERS), None)
        set_key(tenant, key)
        ultravox.accounts[key] = {tenant.agent.ultravox_agent_id}
    return tenants


@pytest.fixture
def deployment(tenants, ultravox, settings):
    settings.ULTRAVOX_TIMEOUT = 1
    ultravox.next_answers, ultravox.webhook_delay, ultravox.call_seconds = UnreliableAnswers(), 0.5, (0.05, 0.3)
    agencies = {key: tenant.agency for key, tenant in tenants.items()}
    keys = {"CREDENTIALS_KEYS": settings.CREDENTIALS_KEYS[0], "ULTRAVOX_API_KEY": ""}
    with running_deployment(ultravox, agencies, workers=4, **keys) as running:
        yield running


def test_no_contact_is_claimed_after_the_cancel_was_answered(tenants, ultravox, deployment):
    stopped = threading.Event()
    observer, other_diallers = Observer(stopped), [OtherDialler(stopped) for _ in range(OTHER_DIALLERS)]
    holder = Holder(stopped, list(tenants.values()), deployment)
    for thread in (observer, holder, *other_diallers):
        thread.start()
    kills = {"worker": 0, "server": 0}

    def kill_at_random():
        while not stopped.wait(random.uniform(1, 3)):
            kills["worker"] += 1
            deployment.kill_random_worker()
            if random.random() < 0.3:
                kills["server"] += 1
                deployment.kill_server()
            run_sweep()
        connections.close_all()

    killer = threading.Thread(target=kill_at_random, daemon=True)
    killer.start()
    with ThreadPoolExecutor(CONCURRENT_ROUNDS) as threads:
        of_rounds = islice(cycle(tenants.values()), ROUNDS)
        rounds = list(threads.map(lambda tenant: run_round(tenant, deployment), of_rounds))
    stopped.set()
    for thread in (killer, observer, holder, *other_diallers):
        thread.join()
    deadline = time.monotonic() + 60
    while has_calls_in_progress() and time.monotonic() < deadline:
        run_sweep()
        time.sleep(0.5)

    by_sql = {
        "claimed": sum(dialler.claimed for dialler in other_diallers),
        "claimed again": sum(dialler.claimed_again for dialler in other_diallers),
        "refused": sum(dialler.refused for dialler in other_diallers),
    }
    statuses = [cancelled.answer.get("status") for cancelled in rounds]
    logger.info(
        "%s rounds: %s cancelled, %s completed before; %s call requests; by SQL: %s; killed: %s; most calls at once "
        "of an agency: %s, to a number: %s; seen %s times waiting for a number; %s holds",
        *(ROUNDS, statuses.count("cancelled"), statuses.count("completed"), len(ultravox.asked), by_sql, kills),
        *(observer.most, observer.most_to_number, observer.waits, holder.holds),
    )
    for cancelled in rounds:
        batch = CallBatch.objects.get(pk=cancelled.batch.pk)
        assert cancelled.claimed_later() == []
        assert cancelled.requests_without_claim(ultravox) == []
        assert batch.status == cancelled.answer["status"]
        assert batch.status in FINAL
        checked_counters(batch)
        assert not batch.contacts.unfinished().exists()
    assert attempts_called_twice(ultravox) == []
    assert {(asked.key, asked.agent) for asked in ultravox.asked} == {
        (key, tenant.agent.ultravox_agent_id) for key, tenant in tenants.items()
    }
    assert holder.late == set()
    assert holder.holds > 0
    # The limit was reached and never exceeded, and contacts waited because their number was being called.
    assert observer.most == AGENCY_LIMIT
    assert observer.most_to_number == 1
    assert observer.waits > 0
    assert len(ultravox.asked) > ROUNDS
    assert statuses.count("cancelled") > ROUNDS / 2
    assert min(by_sql.values()) > 0


def test_control_without_the_lock_a_contact_is_claimed_after_the_answer_within_20_rounds(
    harbour, ultravox, without_guards, monkeypatch
):
    harbour.agency.webhook_secret = "the-secret-of-the-address"
    harbour.agency.save()
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, *args, **kwargs: self)
    with running_deployment(
        ultravox, {KEY: harbour.agency}, workers=2, DJANGO_SETTINGS_MODULE="calls.tests.support.without_lock"
    ) as deployment:
        for _ in range(20):
            cancelled = run_round(harbour, deployment)
            time.sleep(0.2)
            if cancelled.claimed_later():
                return
    pytest.fail("20 rounds without the lock, and no contact was claimed after the answer")
