"""Webhook events, idempotency keys and sessions are deleted when their retention is over."""

import json
import math
from datetime import timedelta

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import CommandError
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.cleanup import CleanupResult, delete_expired
from calls.models import CallBatch, IdempotencyKey, WebhookEvent, retention
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import call

pytestmark = pytest.mark.django_db

DELETE_KEYS = 'DELETE FROM "call_idempotency_keys"'


def days_ago(days):
    return timezone.now() - timedelta(days=days)


def store_events(tenant, *ages):
    """Store one webhook event for each age in days."""
    for age in ages:
        name = f"call {WebhookEvent.objects.count()}"
        WebhookEvent.objects.create(
            agency=tenant.agency, event="call.ended", identity=name, ultravox_call_id=name, created_at=days_ago(age)
        )


def store_keys(tenant, *ages):
    """Store one idempotency key for each age in days, with the age as the key."""
    for age in ages:
        IdempotencyKey.objects.create(agency=tenant.agency, key=str(age), created_at=days_ago(age))


def create(owner, tenant, key):
    """Send calls-batch-create with a key. Return the id of the batch in the answer."""
    response = call(owner, "create", tenant.create_body(), **{"Idempotency-Key": key})
    assert response.status_code == 201
    return response.json()["batch_id"]


def test_rows_are_deleted_after_their_retention_and_not_before(harbour):
    store_events(harbour, 91, 89, 0)
    store_keys(harbour, 31, 29, 0)

    assert delete_expired() == CleanupResult(webhook_events=1, idempotency_keys=1, is_complete=True)

    assert min(WebhookEvent.objects.values_list("created_at", flat=True)) > days_ago(90)
    assert set(IdempotencyKey.objects.values_list("key", flat=True)) == {"29", "0"}


def test_the_settings_say_how_long_rows_are_kept_and_0_keeps_them_for_ever(harbour, settings):
    settings.WEBHOOK_EVENT_RETENTION, settings.IDEMPOTENCY_KEY_RETENTION = 0, 2
    store_events(harbour, 9999)
    store_keys(harbour, 3, 1)

    assert delete_expired() == CleanupResult(webhook_events=0, idempotency_keys=1, is_complete=True)


def test_expired_sessions_are_deleted(harbour):
    for expires_in in (-1, 1000):
        session = SessionStore()
        session.set_expiry(expires_in)
        session.save()

    delete_expired()

    assert Session.objects.get().session_key == session.session_key


def test_a_backlog_is_deleted_oldest_first_in_chunks(harbour, monkeypatch):
    monkeypatch.setattr(retention, "CHUNK", 3)
    store_keys(harbour, *range(40, 30, -1), 1)

    with CaptureQueriesContext(connection) as queries:
        deleted = IdempotencyKey.objects.delete_older_than(timedelta(days=30), deadline=math.inf)

    assert (deleted, IdempotencyKey.objects.get().key) == (10, "1")
    assert sum(query["sql"].startswith("DELETE") for query in queries) == 4


def test_a_row_that_is_younger_than_its_neighbours_is_kept(harbour, monkeypatch):
    monkeypatch.setattr(retention, "CHUNK", 3)
    store_keys(harbour, 1, 40, 39, 2, 38, 37)

    IdempotencyKey.objects.delete_older_than(timedelta(days=30), deadline=math.inf)

    assert set(IdempotencyKey.objects.values_list("key", flat=True)) == {"1", "2"}


def test_the_deletion_ends_when_its_time_is_over_and_the_next_one_continues(harbour):
    store_events(harbour, 91)
    store_keys(harbour, 31)

    assert delete_expired(seconds=0) == CleanupResult(0, 0, is_complete=False)
    assert delete_expired() == CleanupResult(1, 1, is_complete=True)


def test_no_statement_reads_the_whole_table(harbour):
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO call_webhook_events (agency_id, event, ultravox_call_id, identity, body, created_at)
            SELECT %s, 'call.ended', n, n, repeat('x', 500),
                now() - CASE WHEN n > 1200 THEN 9 ELSE 99 END * interval '1 day'
            FROM generate_series(1, 10000) n
            """,
            [harbour.agency.pk],
        )
        cursor.execute("ANALYZE call_webhook_events")
    with CaptureQueriesContext(connection) as queries:
        assert delete_expired().webhook_events == 1200
    statements = [query["sql"] for query in queries if "call_webhook_events" in query["sql"]]

    assert len(statements) == 8
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(f"EXPLAIN {statement}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "using call_webhook_events_pkey" in plan


@pytest.mark.django_db(transaction=True)
def test_two_processes_may_delete_at_the_same_time(harbour):
    store_keys(harbour, 33, 32, 31)

    with PausedThread(delete_expired, after=DELETE_KEYS) as first:
        second = PausedThread(delete_expired)
        second.start()
        assert wait_for_lock_waiter()

    assert first.outcome.idempotency_keys == 3
    assert second.release().idempotency_keys == 0


@pytest.mark.django_db(transaction=True)
def test_keys_work_as_before_while_others_are_being_deleted(harbour, owner):
    first = create(owner, harbour, "within")
    IdempotencyKey.objects.update(created_at=days_ago(29.9))
    store_keys(harbour, 31)

    with PausedThread(delete_expired, after=DELETE_KEYS) as deletion:
        assert create(owner, harbour, "within") == first
        assert create(owner, harbour, "new") != first

    assert deletion.outcome.idempotency_keys == 1
    assert create(owner, harbour, "within") == first
    assert CallBatch.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_request_whose_key_is_just_being_deleted_gets_the_first_answer(harbour, owner):
    first = create(owner, harbour, "expired")
    IdempotencyKey.objects.update(created_at=days_ago(31))

    with PausedThread(delete_expired, after=DELETE_KEYS):
        assert create(owner, harbour, "expired") == first

    assert create(owner, harbour, "expired") != first


def test_the_command_prints_how_many_rows_it_deleted(harbour, run_command):
    store_events(harbour, 91, 92)
    store_keys(harbour, 31)

    status, (line,) = run_command("delete_expired")

    assert (status, json.loads(line)) == (0, {"webhook_events": 2, "idempotency_keys": 1})


def test_the_command_reports_a_database_error_in_one_line(run_command):
    def fail(*arguments):
        raise OperationalError

    with connection.execute_wrapper(fail), pytest.raises(CommandError) as failed:
        run_command("delete_expired")

    assert str(failed.value) == "Failed to delete expired rows (cleanup_failed): run it again to delete the rest"
