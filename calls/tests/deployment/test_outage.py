"""The database goes away while a worker and the web server are running, and comes back."""

import json
import signal
from datetime import timedelta

import pytest
from django.db import connection

from calls import tasks
from calls.api.authentication import issue_token
from calls.dialler.sweep import run_sweep
from calls.models import Call
from calls.tests.support.concurrency import TIMEOUT, until
from calls.tests.support.deployment import attempts_called_twice
from calls.tests.support.factories import URL, backdate_attempts, checked_counters
from calls.tests.support.outage import database_away
from calls.tests.support.provider import KEY
from calls.tests.support.server import database_url, gunicorn, request
from calls.tests.support.workers import start_worker, worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.acceptance,
    pytest.mark.usefixtures("empty_queue"),
]


def is_running():
    """Return whether a worker has started."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM procrastinate_workers")
        return cursor.rowcount > 0


class Log:
    """A file for a worker's standard error."""

    def __init__(self, path):
        self.path, self.file = path, path.open("w")

    @property
    def text(self):
        return self.path.read_text()


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "log")
    yield log
    log.file.close()


@pytest.fixture
def provider_variables(provider):
    return {"ULTRAVOX_API_URL": provider.url, "ULTRAVOX_API_KEY": KEY, "RETRY_PAUSE": "0"}


def test_a_worker_that_loses_the_database_exits_with_1_and_a_line_that_says_so(log):
    with worker(log=log.file) as process:
        until(is_running)
        with database_away():
            until(lambda: "procrastinate" in log.text)
        # The database is back, so the worker can end in order. It must not look as if it had been told to.
        assert process.wait(TIMEOUT) == 1

    assert log.text.count("worker outcome=ended: ") == 1
    assert "Traceback" not in log.text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_worker_that_is_stopped_exits_with_0(log, signum):
    with worker(log=log.file) as process:
        until(is_running)
        process.send_signal(signum)
        assert process.wait(TIMEOUT) == 0

    assert "outcome=ended" not in log.text
    assert not is_running()


@pytest.mark.slow
def test_after_an_outage_the_next_worker_continues_and_calls_no_contact_twice(
    harbour, ultravox, provider_variables, log
):
    batch = harbour.batch(queued=3)
    type(batch).objects.update(max_concurrent=1)
    ultravox.may_answer.clear()
    with worker(log=log.file, **provider_variables) as process:
        tasks.dial.defer(batch_id=str(batch.pk), agency_id=str(batch.agency_id), places=[0], start=False)
        until(lambda: ultravox.asked)
        with database_away():
            ultravox.may_answer.set()
            until(lambda: "outcome=update_failed" in log.text)
        assert process.wait(TIMEOUT) == 1
    assert not Call.objects.exists()

    type(batch).objects.update(max_concurrent=3)
    with worker(**provider_variables):
        tasks.dial_due_batches.defer(timestamp=0)
        until(lambda: Call.objects.count() == 2)
    backdate_attempts(batch, timedelta(hours=2))
    run_sweep()

    assert Call.objects.count() == 3
    assert attempts_called_twice(ultravox) == []
    assert checked_counters(batch) == {"total_contacts": 3, "in_progress": 3}
    assert "Traceback" not in log.text


def test_a_worker_started_without_a_database_says_so_and_exits_with_1(log):
    process = start_worker(log=log.file, DATABASE_URL="postgresql://user@127.0.0.1:1/nothing")

    assert process.wait(TIMEOUT) == 1
    assert "CommandError: the database cannot be reached, so no worker was started" in log.text.splitlines()
    assert "Traceback" not in log.text


def test_the_web_server_cancels_again_as_soon_as_the_database_is_back(harbour):
    batch = harbour.batch(queued=3)
    body, token = json.dumps({"batch_id": str(batch.pk)}), issue_token(harbour.owner)
    with gunicorn(database_url()) as server:
        assert request(server, "GET", "/healthz")[0] == 200
        with database_away():
            assert request(server, "GET", "/healthz")[0] == 503
        status, _, answer = request(server, "POST", URL, body, Authorization=f"Bearer {token}")

    assert (status, answer["contacts_skipped"]) == (200, 3)
