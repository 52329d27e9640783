"""Whoever holds on for too long: a cancel waits, but never without end, and says so when it gives up."""

import re
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.database.transactions import set_timeouts
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import ADD, PausedThread, foreign_first
from calls.tests.support.factories import URL, batch_snapshot, cancel, count, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)


def post(owner, batch):
    """The API's answer to a cancel, and after how many seconds."""
    started = time.monotonic()
    response = owner.post(URL, {"batch_id": str(batch.pk)}, format="json")
    return response.status_code, response.json().get("code"), time.monotonic() - started


# What somebody holds, and how a cancel is refused then. Without the users nobody can be told who asks.
HELD = {
    "the batch": ("SELECT 1 FROM call_batches FOR UPDATE", "update_failed"),
    "a contact": ("SELECT 1 FROM campaign_contacts LIMIT 1 FOR UPDATE", "update_failed"),
    "all batches": ("LOCK TABLE call_batches", "update_failed"),
    "all users": ("LOCK TABLE users", "internal_error"),
}


@pytest.mark.parametrize("held", HELD)
def test_whatever_somebody_holds_cancel_is_refused_in_time_and_changes_nothing(harbour, owner, held, caplog):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)
    sql, expected = HELD[held]
    with plain_connection() as plain, plain.transaction():
        plain.execute(sql)
        status, code, seconds = post(owner, batch)

    assert (status, code) == (500, expected)
    assert ("outcome=update_failed" in caplog.text) is (expected == "update_failed")
    assert seconds < 15
    assert batch_snapshot(batch) == before


def test_a_preview_does_not_wait_without_end_either(harbour):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute("LOCK TABLE campaign_contacts")
        started = time.monotonic()
        with pytest.raises(BatchUpdateFailed):
            batch.preview_cancel()

    assert time.monotonic() - started < 15


def test_the_lock_has_ten_seconds_and_the_contacts_have_theirs(harbour, settings):
    settings.CANCEL_TIMEOUT = 77
    batch = harbour.batch(queued=3)

    with CaptureQueriesContext(connection) as queries:
        cancel(batch)

    limits = [re.findall(r"'(\d+ms)'", query["sql"]) for query in queries if "statement_timeout" in query["sql"]]
    assert limits == [["5000ms", "10000ms"], ["5000ms", "77000ms"]]


def test_the_limits_end_with_the_transaction(harbour):
    def limits():
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
            return cursor.fetchone()

    batch, before = harbour.batch(queued=3), limits()

    cancel(batch)

    assert limits() == before


@pytest.fixture
def repeatable_read(db):
    """A database whose administrator has set another isolation level than PostgreSQL's own default."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with plain_connection() as plain:
        plain.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        connection.close_pool()
        yield
        plain.execute(f"ALTER DATABASE {name} RESET default_transaction_isolation")


def test_contacts_added_while_cancel_waits_are_skipped_whatever_isolation_is_the_default(harbour, repeatable_read):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain:
        assert plain.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)

    assert foreign_first(batch, ADD, [batch.pk]).contacts_skipped == 4


@contextmanager
def stream_of_inserts(batch):
    """Writers who add contacts without a pause, each transaction overlapping the next: the batch is never free."""
    stop = threading.Event()

    def insert(delay):
        with plain_connection() as plain:
            time.sleep(delay)
            while not stop.is_set():
                try:
                    with plain.transaction():
                        plain.execute(ADD, [batch.pk])
                        time.sleep(0.3)
                except psycopg.errors.CheckViolation:
                    return

    writers = [threading.Thread(target=insert, args=[0.1 * number], daemon=True) for number in range(4)]
    for writer in writers:
        writer.start()
    time.sleep(0.6)
    try:
        yield
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_a_stream_of_foreign_inserts_gets_an_answer_in_time(harbour, owner):
    batch = harbour.batch(queued=3)
    with stream_of_inserts(batch):
        status, code, seconds = post(owner, batch)

    assert seconds < 15
    if status == 200:
        assert count(batch, ContactStatus.QUEUED, ContactStatus.PENDING) == 0
    else:
        assert (status, code) == (500, "update_failed")
        assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.PROCESSING


def test_control_with_a_lock_timeout_alone_the_stream_can_hold_cancel_up(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    monkeypatch.setitem(set_timeouts.__kwdefaults__, "lock", 1.0)
    monkeypatch.setitem(set_timeouts.__kwdefaults__, "statement", 60.0)
    with stream_of_inserts(batch):
        cancelling = PausedThread(lambda: cancel(batch))
        cancelling.start()
        cancelling.join(3)
        still_waiting = cancelling.is_alive()
    cancelling.release()

    assert still_waiting
