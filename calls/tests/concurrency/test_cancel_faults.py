"""Whatever breaks in the middle of a cancel: it is wholly done or wholly undone, and asking again is safe."""

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

pytestmark = pytest.mark.django_db(transaction=True)

STATEMENTS = 5


class FaultAt:
    """Before statement number ``number`` the server ends this connection, as an operator or a failover would."""

    def __init__(self, number):
        self.number, self.seen = number, 0

    def __call__(self, execute, sql, params, many, context):
        self.seen += 1
        if self.seen == self.number:
            with plain_connection() as plain:
                plain.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
        return execute(sql, params, many, context)


@pytest.mark.parametrize("number", range(1, STATEMENTS + 1))
def test_a_connection_lost_at_any_statement_leaves_everything_as_it_was(harbour, number):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    fault = FaultAt(number)
    with connection.execute_wrapper(fault), pytest.raises(BatchUpdateFailed):
        cancel(batch)

    assert fault.seen == number
    assert batch_snapshot(batch) == before
    assert isinstance(cancel(batch), CancelResult)


def test_there_is_no_statement_beyond_those(harbour):
    batch, fault = harbour.batch(queued=3), FaultAt(STATEMENTS + 1)

    with connection.execute_wrapper(fault):
        cancel(batch)

    assert fault.seen == STATEMENTS


def test_a_commit_that_fails_leaves_everything_as_it_was(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    def fails(self):
        raise OperationalError

    monkeypatch.setattr(DatabaseWrapper, "_commit", fails)
    with pytest.raises(BatchUpdateFailed):
        cancel(batch)
    monkeypatch.undo()

    assert batch_snapshot(batch) == before


def test_an_answer_lost_during_commit_is_told_when_asked_again(harbour, owner, monkeypatch):
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


def test_a_write_that_somebody_elses_trigger_swallows_leaves_everything_as_it_was(harbour):
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
def test_a_deadlock_is_tried_again_three_times_unless_a_caller_has_more_to_lose(harbour, monkeypatch, nested, attempts):
    made = []

    def deadlocks(self, *arguments):
        made.append(arguments)
        raise OperationalError from psycopg.errors.DeadlockDetected()

    monkeypatch.setattr(CallBatch, "locked", deadlocks)
    with transaction.atomic() if nested else nullcontext(), pytest.raises(BatchUpdateFailed):
        cancel(harbour.batch(queued=3))

    assert len(made) == attempts


# The whole server, killed


@pytest.fixture
def server(tmp_path_factory):
    """A PostgreSQL of its own, with the demo's data, that a test may kill; starts it again when asked."""
    data = tmp_path_factory.mktemp("killed", numbered=True)
    script = (
        "import sys, pathlib; from agency_backend import embedded;"
        "server = embedded.start(pathlib.Path(sys.argv[1]));"
        "print(server.get_uri(), flush=True); sys.stdin.read()"
    )
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(process)
        return process.stdout.readline().strip()

    def kill():
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for member in family:
            member.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)

    start.kill = kill
    yield start
    for process in started:
        process.communicate()


def manage(url, *arguments):
    settings = {"DJANGO_SETTINGS_MODULE": "agency_backend.settings", "DJANGO_DEBUG": "1", "DATABASE_URL": url}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env=os.environ | settings,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_database_killed_in_the_middle_of_a_cancel_has_done_none_of_it(server):
    url = server()
    manage(url, "migrate", "--verbosity", "0")
    manage(url, "demo")
    counts = "SELECT c.status, count(*) FROM campaign_contacts c WHERE batch_id = %s GROUP BY 1 ORDER BY 1"
    with psycopg.connect(url, autocommit=True) as plain, closing(psycopg.connect(url)) as holder:
        (batch_id,) = plain.execute("SELECT id FROM call_batches ORDER BY total_contacts DESC LIMIT 1").fetchone()
        before = plain.execute(counts, [batch_id]).fetchall()
        # The last contact is held, so that all others are written when the server goes.
        holder.execute(
            "SELECT 1 FROM campaign_contacts WHERE id = (SELECT id FROM campaign_contacts WHERE batch_id = %s"
            " AND status = 'queued' ORDER BY id DESC LIMIT 1) FOR UPDATE",
            [batch_id],
        )
        with ThreadPoolExecutor() as pool:
            command = pool.submit(manage, url, "cancel_batch", str(batch_id))
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
    url = server()
    with psycopg.connect(url, autocommit=True) as plain:
        assert plain.execute(counts, [batch_id]).fetchall() == before
        assert plain.execute("SELECT status FROM call_batches WHERE id = %s", [batch_id]).fetchone() == ("processing",)
    assert "cancelled. Contacts skipped: 342." in manage(url, "cancel_batch", str(batch_id)).stdout
