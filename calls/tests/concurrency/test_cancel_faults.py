"""Faults in the middle of a cancel: either all of it is done or nothing, and repeating the cancel is safe."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext

import psutil
import psycopg
import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.postgresql.base import DatabaseWrapper

from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch, CancelResult
from calls.tests.support.factories import ROOT, batch_snapshot, cancel, plain_connection
from calls.tests.support.manage import manage

pytestmark = pytest.mark.django_db(transaction=True)

STATEMENTS = 5


class LoseConnection:
    """An execute wrapper: before statement ``number`` the server closes this connection, as in a failover."""

    def __init__(self, number):
        self.number, self.seen = number, 0

    def __call__(self, execute, sql, params, many, context):
        self.seen += 1
        if self.seen == self.number:
            with plain_connection() as plain:
                plain.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
        return execute(sql, params, many, context)


@pytest.mark.parametrize("number", range(1, STATEMENTS + 1))
def test_a_connection_lost_at_any_statement_changes_nothing(harbour, number):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    fault = LoseConnection(number)
    with connection.execute_wrapper(fault), pytest.raises(BatchUpdateFailed):
        cancel(batch)

    assert fault.seen == number
    assert batch_snapshot(batch) == before
    assert isinstance(cancel(batch), CancelResult)


def test_cancel_sends_exactly_five_statements(harbour):
    batch, fault = harbour.batch(queued=3), LoseConnection(STATEMENTS + 1)

    with connection.execute_wrapper(fault):
        cancel(batch)

    assert fault.seen == STATEMENTS


def test_a_failed_commit_changes_nothing(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    def fails(self):
        raise OperationalError

    monkeypatch.setattr(DatabaseWrapper, "_commit", fails)
    with pytest.raises(BatchUpdateFailed):
        cancel(batch)
    monkeypatch.undo()

    assert batch_snapshot(batch) == before


def test_after_a_connection_lost_during_commit_the_next_cancel_answers_that_the_batch_is_cancelled(
    harbour, owner, monkeypatch
):
    batch = harbour.batch(queued=3)
    commit = DatabaseWrapper._commit

    def commits_and_fails(self):
        commit(self)
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(DatabaseWrapper, "_commit", commits_and_fails)
        with pytest.raises(BatchUpdateFailed):
            cancel(batch)

    response = owner.post("/functions/v1/calls-batch-cancel", {"batch_id": str(batch.pk)}, format="json")
    assert response.json()["code"] == "batch_already_cancelled"


def test_an_update_dropped_by_a_trigger_of_another_service_changes_nothing(harbour):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER a BEFORE UPDATE ON call_batches FOR EACH ROW EXECUTE FUNCTION swallow()"
        )
        try:
            with pytest.raises(BatchUpdateFailed):
                cancel(batch)
        finally:
            cursor.execute("DROP FUNCTION swallow() CASCADE")

    assert batch_snapshot(batch) == before


@pytest.mark.parametrize(("nested", "attempts"), [(False, 4), (True, 1)])
def test_a_deadlock_is_retried_three_times_unless_cancel_runs_in_a_callers_transaction(
    harbour, monkeypatch, nested, attempts
):
    attempts_made = []

    def deadlocks(self, *arguments):
        attempts_made.append(arguments)
        raise OperationalError from psycopg.errors.DeadlockDetected()

    monkeypatch.setattr(CallBatch, "locked", deadlocks)
    with transaction.atomic() if nested else nullcontext(), pytest.raises(BatchUpdateFailed):
        cancel(harbour.batch(queued=3))

    assert len(attempts_made) == attempts


# A database server that is killed


class KillableServer:
    """A PostgreSQL server in a directory of its own."""

    SCRIPT = (
        "import sys, pathlib; from agency_backend import embedded;"
        "server = embedded.start(pathlib.Path(sys.argv[1]));"
        "print(server.get_uri(), flush=True); sys.stdin.read()"
    )

    def __init__(self, data):
        self.data, self.started = data, []

    def start(self):
        """Start the server, for the first time or after a kill. Return its URL."""
        process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, str(self.data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.started.append(process)
        return process.stdout.readline().strip()

    def kill(self):
        """Kill the postmaster and its backends with SIGKILL."""
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)

    def stop(self):
        for process in self.started:
            process.communicate()


@pytest.fixture
def server(tmp_path_factory):
    killable = KillableServer(tmp_path_factory.mktemp("killed", numbered=True))
    yield killable
    killable.stop()


def manage_on(url, *arguments):
    settings = {"DJANGO_SETTINGS_MODULE": "agency_backend.settings", "DJANGO_DEBUG": "1", "DATABASE_URL": url}
    return manage(*arguments, environment=os.environ | settings, timeout=60)


@pytest.mark.slow
def test_a_database_killed_in_the_middle_of_a_cancel_has_changed_nothing(server):
    url = server.start()
    manage_on(url, "migrate", "--verbosity", "0")
    manage_on(url, "demo")
    counts = "SELECT c.status, count(*) FROM campaign_contacts c WHERE batch_id = %s GROUP BY 1 ORDER BY 1"
    with psycopg.connect(url, autocommit=True) as plain, closing(psycopg.connect(url)) as locking:
        (batch_id,) = plain.execute("SELECT id FROM call_batches ORDER BY total_contacts DESC LIMIT 1").fetchone()
        before = plain.execute(counts, [batch_id]).fetchall()
        # The last contact is locked, so that all others have been written when the server is killed.
        locking.execute(
            "SELECT 1 FROM campaign_contacts WHERE id = (SELECT id FROM campaign_contacts WHERE batch_id = %s"
            " AND status = 'queued' ORDER BY id DESC LIMIT 1) FOR UPDATE",
            [batch_id],
        )
        with ThreadPoolExecutor() as pool:
            command = pool.submit(manage_on, url, "cancel_batch", str(batch_id))
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE%'"
            while not plain.execute(waiting).fetchone():
                assert not command.done()
                time.sleep(0.02)
            server.kill()
            killed = command.result()

    assert (killed.returncode, killed.stdout) == (
        1,
        f"{batch_id}: not cancelled: Failed to update batch status (update_failed)\n",
    )
    url = server.start()
    with psycopg.connect(url, autocommit=True) as plain:
        assert plain.execute(counts, [batch_id]).fetchall() == before
        assert plain.execute("SELECT status FROM call_batches WHERE id = %s", [batch_id]).fetchone() == ("processing",)
    assert "cancelled. Contacts skipped: 342." in manage_on(url, "cancel_batch", str(batch_id)).stdout
