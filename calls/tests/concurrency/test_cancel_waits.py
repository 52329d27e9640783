"""Locks that are held for too long: a cancel waits for a limited time and then reports that it failed."""

import re
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.database.transactions import set_timeouts, transaction_with_timeouts
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import ADD_CONTACT_BY_SQL, PausedThread, cancel_during_write
from calls.tests.support.factories import URL, batch_snapshot, cancel, count, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)


def post(owner, batch):
    """Cancel through the API. Return the status and the code of the answer, and its time in seconds."""
    started = time.monotonic()
    response = owner.post(URL, {"batch_id": str(batch.pk)}, format="json")
    return response.status_code, response.json().get("code"), time.monotonic() - started


# What another service locks, and the code of the answer. Without ``users`` the request fails before the cancel begins.
LOCKS = {
    "the batch": ("SELECT 1 FROM call_batches FOR UPDATE", "update_failed"),
    "a contact": ("SELECT 1 FROM campaign_contacts LIMIT 1 FOR UPDATE", "update_failed"),
    "all batches": ("LOCK TABLE call_batches", "update_failed"),
    "all users": ("LOCK TABLE users", "internal_error"),
}


@pytest.mark.parametrize("locked", LOCKS)
def test_a_lock_of_another_service_fails_the_cancel_in_time_and_nothing_is_changed(harbour, owner, locked, caplog):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)
    sql, expected = LOCKS[locked]
    with plain_connection() as plain, plain.transaction():
        plain.execute(sql)
        status, code, seconds = post(owner, batch)

    assert (status, code) == (500, expected)
    assert ("outcome=update_failed" in caplog.text) is (expected == "update_failed")
    assert seconds < 15
    assert batch_snapshot(batch) == before


def test_a_preview_waits_for_a_limited_time(harbour):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute("LOCK TABLE campaign_contacts")
        started = time.monotonic()
        with pytest.raises(BatchUpdateFailed):
            batch.preview_cancel()

    assert time.monotonic() - started < 15


def test_the_lock_step_has_ten_seconds_and_the_contacts_have_cancel_timeout(harbour, settings):
    settings.CANCEL_TIMEOUT = 77
    batch = harbour.batch(queued=3)

    with CaptureQueriesContext(connection) as queries:
        cancel(batch)

    timeouts = [re.findall(r"'(\d+ms)'", query["sql"]) for query in queries if "statement_timeout" in query["sql"]]
    assert timeouts == [["5000ms", "10000ms"], ["5000ms", "77000ms"]]


def test_the_timeouts_end_with_the_transaction(harbour):
    def timeouts():
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
            return cursor.fetchone()

    batch, before = harbour.batch(queued=3), timeouts()

    cancel(batch)

    assert timeouts() == before


@pytest.fixture
def repeatable_read(db):
    """Set the default isolation level of the database to repeatable read."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with plain_connection() as plain:
        plain.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        connection.close_pool()
        yield
        plain.execute(f"ALTER DATABASE {name} RESET default_transaction_isolation")


def test_contacts_added_while_cancel_waits_are_skipped_under_another_default_isolation_level(harbour, repeatable_read):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain:
        assert plain.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)

    assert cancel_during_write(batch, ADD_CONTACT_BY_SQL, [batch.pk]).contacts_skipped == 4


@contextmanager
def stream_of_inserts(batch):
    """Add contacts from four connections whose transactions overlap, so that the batch is always locked."""
    stop = threading.Event()

    def insert(delay):
        with plain_connection() as plain:
            time.sleep(delay)
            while not stop.is_set():
                try:
                    with plain.transaction():
                        plain.execute(ADD_CONTACT_BY_SQL, [batch.pk])
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


def test_cancel_answers_in_time_during_a_stream_of_inserts_by_another_service(harbour, owner):
    batch = harbour.batch(queued=3)
    with stream_of_inserts(batch):
        status, code, seconds = post(owner, batch)

    assert seconds < 15
    if status == 200:
        assert count(batch, ContactStatus.QUEUED, ContactStatus.PENDING) == 0
    else:
        assert (status, code) == (500, "update_failed")
        assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.PROCESSING


def set_default_timeouts(monkeypatch, *, statement):
    monkeypatch.setitem(set_timeouts.__kwdefaults__, "lock", 1.0)
    monkeypatch.setitem(transaction_with_timeouts.__wrapped__.__kwdefaults__, "statement", statement)


@pytest.fixture
def short_timeouts(monkeypatch):
    """Set the lock timeout to 1 second and the statement timeout to 2."""
    set_default_timeouts(monkeypatch, statement=2.0)


def is_waiting_in_the_stream(batch):
    """Return whether a cancel still waits after 6 seconds of a stream of inserts."""
    with stream_of_inserts(batch):
        cancelling = PausedThread(lambda: cancel(batch))
        cancelling.start()
        cancelling.join(6)
        is_waiting = cancelling.is_alive()
    cancelling.release()
    return is_waiting


def test_the_statement_timeout_ends_the_wait_in_the_stream(harbour, short_timeouts):
    assert not is_waiting_in_the_stream(harbour.batch(queued=3))


def test_control_with_a_lock_timeout_alone_the_stream_keeps_cancel_waiting(harbour, short_timeouts, monkeypatch):
    set_default_timeouts(monkeypatch, statement=60.0)

    assert is_waiting_in_the_stream(harbour.batch(queued=3))
