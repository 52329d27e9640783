"""start_batch(): start a due batch and queue its contacts."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler import starting
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.starting import start_batch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import CONTACT_UPDATE
from calls.tests.support.factories import checked_counters, pause, plain_connection, resume

pytestmark = pytest.mark.django_db(transaction=True)


def test_contacts_are_queued_in_chunks(harbour, monkeypatch):
    """A cancel waits for the lock of one chunk, not of all contacts."""
    monkeypatch.setattr(starting, "QUEUE_CHUNK", 2)
    batch = harbour.batch(BatchStatus.PENDING, pending=7)

    with CaptureQueriesContext(connection) as queries:
        start_batch(batch)

    assert sum(CONTACT_UPDATE in query["sql"] for query in queries) == 4
    assert set(batch.contacts.values_list("status", flat=True)) == {"queued"}
    assert checked_counters(batch) == {"total_contacts": 7, "queued": 7}


def test_contacts_that_an_interrupted_pass_left_pending_are_queued_by_the_next_pass(harbour, monkeypatch):
    batch = harbour.batch(BatchStatus.PENDING, pending=2)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(starting, "_queue_pending", lambda batch: None)
        start_batch(batch)
    assert set(batch.contacts.values_list("status", flat=True)) == {"pending"}

    start_batch(batch)
    assert set(batch.contacts.values_list("status", flat=True)) == {"queued"}


def test_the_other_contacts_are_queued_while_another_service_has_locked_one(harbour):
    batch = harbour.batch(BatchStatus.PENDING, pending=3)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT FROM campaign_contacts LIMIT 1 FOR UPDATE")

        start_batch(batch)

    assert sorted(batch.contacts.values_list("status", flat=True)) == ["pending", "queued", "queued"]


def test_contacts_without_created_at_are_queued(harbour, monkeypatch):
    monkeypatch.setattr(starting, "QUEUE_CHUNK", 2)
    batch = harbour.batch(BatchStatus.PENDING, pending=5)
    with plain_connection() as plain:
        plain.execute("ALTER TABLE campaign_contacts ALTER created_at DROP NOT NULL")
        plain.execute(
            "UPDATE campaign_contacts SET created_at = NULL WHERE id IN (SELECT id FROM campaign_contacts LIMIT 3)"
        )
    try:
        with CaptureQueriesContext(connection) as queries:
            start_batch(batch)
        assert sum(CONTACT_UPDATE in query["sql"] for query in queries) == 2
        assert set(batch.contacts.values_list("status", flat=True)) == {"queued"}
    finally:
        with plain_connection() as plain:
            plain.execute("UPDATE campaign_contacts SET created_at = now()")
            plain.execute("ALTER TABLE campaign_contacts ALTER created_at SET NOT NULL")


def test_a_contact_that_another_service_queued_again_is_called_when_no_other_contact_waits(harbour, ultravox):
    batch = harbour.batch(queued=2)
    run_pass()
    first = batch.contacts.first()
    first.record_answered(outcome="answered")
    # Like plain SQL, this leaves completed_at as it was.
    batch.contacts.filter(pk=first.pk).update(status=ContactStatus.QUEUED)

    assert run_pass() == PassResult(1, 1, 0)
    assert batch.contacts.get(pk=first.pk).attempts == 2


def test_started_at_keeps_the_time_of_the_first_start(harbour, ultravox):
    batch = harbour.batch(BatchStatus.PENDING, pending=2)
    run_pass()
    batch.refresh_from_db()
    started = batch.started_at
    pause(batch)
    resume(batch)
    run_pass()

    batch.refresh_from_db()
    assert batch.started_at == started


def test_a_batch_resumed_after_its_scheduled_time_is_started_with_its_pending_contacts(harbour, ultravox):
    batch = harbour.batch(BatchStatus.SCHEDULED, pending=2)
    type(batch).objects.update(scheduled_for=timezone.now() - timedelta(hours=2), max_concurrent=1)
    pause(batch)
    assert run_pass() == PassResult(0, 0, 0)
    resume(batch)

    assert run_pass() == PassResult(1, 1, 0)
    batch.refresh_from_db()
    assert batch.started_at is not None
    assert set(batch.contacts.values_list("status", flat=True)) == {"in_progress", "queued"}
