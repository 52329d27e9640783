"""
A pause waits for claims of other services, because these lock no batch. No claim is committed after the answer.

A claim of this app locks the batch, so a pause waits for it before it is stored (``test_other_races.py``).
"""

import pytest
from django.db import connection

from calls.models import CallBatch, PauseResult, locking
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import (
    CLAIM_BY_SQL,
    OtherServiceThread,
    PausedThread,
    lose_connection_while_looking,
    until,
)
from calls.tests.support.factories import count, pause, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)


def status_of(batch):
    return CallBatch.objects.get(pk=batch.pk).status


def start_pause(batch):
    """Start a pause in a thread, and return the thread as soon as the pause is stored."""
    pausing = PausedThread(lambda: pause(batch))
    pausing.start()
    until(lambda: status_of(batch) == BatchStatus.PAUSED or not pausing.is_alive())
    return pausing


def test_a_pause_waits_for_a_claim_of_another_service(harbour):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute(CLAIM_BY_SQL, [batch.contacts.first().pk])
        pausing = start_pause(batch)
        pausing.join(0.3)
        assert pausing.is_alive()

    assert isinstance(pausing.release(), PauseResult)
    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_control_without_the_wait_the_claim_is_committed_after_the_answer(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    monkeypatch.setattr(locking, "wait_for_writers", lambda *args, **kwargs: [])

    with plain_connection() as plain, plain.transaction():
        plain.execute(CLAIM_BY_SQL, [batch.contacts.first().pk])
        pause(batch)
        assert count(batch, ContactStatus.IN_PROGRESS) == 0

    assert count(batch, ContactStatus.IN_PROGRESS) == 1


def test_a_claim_during_the_wait_is_refused(harbour):
    batch = harbour.batch(queued=3)
    first, second = batch.contacts.all()[:2]
    with plain_connection() as plain, plain.transaction():
        plain.execute(CLAIM_BY_SQL, [first.pk])
        pausing = start_pause(batch)
        assert OtherServiceThread((CLAIM_BY_SQL, [second.pk])).start().result() == "23514"

    assert isinstance(pausing.release(), PauseResult)


def test_a_pause_is_answered_after_the_wait_and_logs_who_still_writes(harbour, short_wait, caplog):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        pid = plain.info.backend_pid
        plain.execute(CLAIM_BY_SQL, [batch.contacts.first().pk])

        assert isinstance(pause(batch), PauseResult)

    (warning,) = [line for line in caplog.messages if "uncertain" in line]
    assert warning.startswith(f"batch={batch.pk} agency={batch.agency_id} outcome=uncertain")
    assert warning.endswith(f"pids={pid}")


def test_a_service_that_only_reads_contacts_or_locks_them_does_not_delay_a_pause(harbour, caplog):
    batch = harbour.batch(queued=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT FROM campaign_contacts FOR UPDATE")

        assert isinstance(pause(batch), PauseResult)

    assert "uncertain" not in caplog.text


def test_a_pause_whose_connection_is_lost_during_the_wait_is_answered_and_logged(harbour, caplog):
    batch = harbour.batch(queued=3)

    with connection.execute_wrapper(lose_connection_while_looking):
        assert isinstance(pause(batch), PauseResult)

    assert f"batch={batch.pk} agency={batch.agency_id} outcome=uncertain: OperationalError" in caplog.text
    assert status_of(batch) == BatchStatus.PAUSED


def test_the_next_pause_after_a_lost_connection_succeeds(harbour):
    first, second = harbour.batch(queued=3), harbour.batch(queued=3)
    with connection.execute_wrapper(lose_connection_while_looking):
        pause(first)

    assert isinstance(pause(second), PauseResult)
