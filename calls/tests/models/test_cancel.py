"""CallBatch.cancel(): what it writes, what it leaves unchanged and what it refuses."""

import logging
from dataclasses import replace

import pghistory
import pytest
from django.db import connection, transaction
from django.db.models import Count
from django.test.utils import CaptureQueriesContext

from calls.audit import Source
from calls.exceptions import BatchAlreadyCancelled, BatchAlreadyCompleted, BatchNotFound
from calls.models import CallBatch, CancelResult
from calls.signals import batch_cancelled
from calls.statuses import DIALABLE, FINAL, BatchStatus, ContactStatus
from calls.tests.support.factories import PHONE, STAFF_ACTOR, batch_snapshot, cancel, count

pytestmark = pytest.mark.django_db

UNFINISHED = [status for status in BatchStatus if status not in FINAL]


def test_cancel_skips_every_dialable_contact(harbour):
    batch = harbour.batch(pending=2, queued=3, scheduled=4)

    result = cancel(batch)

    assert result == CancelResult(batch.pk, harbour.agency.pk, BatchStatus.CANCELLED, contacts_skipped=9, in_progress=0)
    assert count(batch, ContactStatus.SKIPPED) == 9


def test_cancel_changes_no_contact_that_is_not_dialable(harbour):
    batch = harbour.batch(queued=1, in_progress=2, completed=3, failed=4, skipped=5)
    others = batch.contacts.exclude(status__in=DIALABLE).order_by("pk")
    before = list(others.values())

    cancel(batch)

    assert list(others.filter(outcome_notes=None).values()) == before


def test_cancel_changes_no_contact_of_another_batch(harbour):
    batch, other = harbour.batch(queued=1), harbour.batch(queued=1)
    before = batch_snapshot(other)

    cancel(batch)

    assert batch_snapshot(other) == before


def test_cancel_writes_three_columns_of_a_skipped_contact_and_no_other(harbour):
    batch = harbour.batch(queued=1)
    before = batch.contacts.values().get()

    cancel(batch)

    after = batch.contacts.values().get()
    batch.refresh_from_db()
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        "status": "skipped",
        "outcome_notes": "Batch cancelled",
        "updated_at": batch.completed_at,
    }


@pytest.mark.not_adopted
def test_cancel_writes_these_columns_of_the_batch_and_no_other(harbour):
    batch = harbour.batch(queued=3, in_progress=1, skipped=2)
    before = CallBatch.objects.values().get()

    cancel(batch)

    after = CallBatch.objects.values().get()
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        "status": "cancelled",
        "queued": 0,
        "skipped": 5,
        "completed_at": after["updated_at"],
        "error_message": "Cancelled by user",
        "updated_at": after["completed_at"],
    }


def test_every_time_that_cancel_writes_is_the_time_of_its_transaction(harbour):
    batch = harbour.batch(queued=2)

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
        cancel(batch)

    batch.refresh_from_db()
    assert {batch.completed_at, batch.updated_at, *batch.contacts.values_list("updated_at", flat=True)} == {now}


def test_the_counters_still_add_up_after_a_cancel(harbour):
    batch = harbour.batch(pending=1, queued=2, scheduled=3, in_progress=4, completed=5, failed=6, skipped=7)

    cancel(batch)

    batch.refresh_from_db()
    contacts = dict(batch.contacts.values_list("status").annotate(Count("pk")))
    assert contacts == {"in_progress": 4, "completed": 5, "failed": 6, "skipped": 13}
    assert {name: getattr(batch, name) for name in contacts} == contacts
    assert batch.queued + sum(contacts.values()) == batch.total_contacts


@pytest.mark.parametrize("status", UNFINISHED)
def test_cancel_works_in_every_status_that_is_not_final(harbour, status):
    batch = harbour.batch(status, queued=1)

    assert cancel(batch).contacts_skipped == 1


def test_a_batch_without_dialable_contacts_can_be_cancelled(harbour):
    batch = harbour.batch(in_progress=1, completed=1)

    assert cancel(batch).contacts_skipped == 0


def test_contacts_skipped_is_the_row_count_of_the_update_and_not_a_counter(harbour):
    batch = harbour.batch(queued=3)
    CallBatch.objects.update(queued=-40, skipped=-2)

    assert cancel(batch).contacts_skipped == 3
    batch.refresh_from_db()
    assert (batch.queued, batch.skipped) == (0, 1)


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(BatchStatus.COMPLETED, BatchAlreadyCompleted), (BatchStatus.CANCELLED, BatchAlreadyCancelled)],
)
def test_cancel_refuses_a_finished_batch_and_changes_nothing(harbour, status, refusal):
    batch = harbour.batch(status, completed=1, skipped=1)
    before = batch_snapshot(batch)

    with pytest.raises(refusal):
        cancel(batch)

    assert batch_snapshot(batch) == before


def test_cancel_reads_the_status_again_and_ignores_a_stale_instance(harbour):
    batch = harbour.batch(queued=1)
    cancel(batch)
    assert batch.status == BatchStatus.PROCESSING

    with pytest.raises(BatchAlreadyCancelled) as refused:
        cancel(batch)

    assert refused.value.status == BatchStatus.CANCELLED


def test_cancel_refuses_a_deleted_batch(harbour):
    batch = harbour.batch()
    CallBatch.objects.all().delete()

    with pytest.raises(BatchNotFound):
        cancel(CallBatch(pk=batch.pk, agency=harbour.agency))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("contacts", [3, 300])
def test_cancel_sends_five_statements_for_any_number_of_contacts(harbour, contacts):
    batch = harbour.batch(queued=contacts)

    with CaptureQueriesContext(connection) as queries:
        cancel(batch)

    assert [query["sql"].split("; ")[-1].split()[0] for query in queries] == [
        *("BEGIN", "SELECT", "SELECT", "SELECT", "UPDATE", "UPDATE", "COMMIT")
    ]


@pytest.mark.not_adopted
def test_the_dialable_contacts_of_a_batch_are_read_through_an_index(harbour):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")

    plan = batch.contacts.dialable().explain()

    assert "contact_in_order" in plan


def test_the_preview_returns_what_a_cancel_would_do_with_the_current_status_and_writes_nothing(harbour):
    batch = harbour.batch(queued=3, in_progress=2)
    before = batch_snapshot(batch)

    preview = batch.preview_cancel()

    assert batch_snapshot(batch) == before
    assert preview == replace(cancel(batch), status=BatchStatus.PROCESSING)


def test_the_preview_refuses_what_cancel_refuses(harbour):
    batch = harbour.batch(BatchStatus.COMPLETED)

    with pytest.raises(BatchAlreadyCompleted):
        batch.preview_cancel()


def test_the_signal_is_sent_after_the_commit(harbour, django_capture_on_commit_callbacks):
    batch = harbour.batch(queued=3)
    received = []
    batch_cancelled.connect(lambda result, **kwargs: received.append(result), weak=False, dispatch_uid="test")
    try:
        with django_capture_on_commit_callbacks(execute=True):
            result = cancel(batch)
            assert received == []
    finally:
        batch_cancelled.disconnect(dispatch_uid="test")

    assert received == [result]


def test_a_receiver_of_the_signal_that_raises_changes_nothing(harbour, django_capture_on_commit_callbacks):
    batch = harbour.batch(queued=3)

    def raises(**kwargs):
        raise RuntimeError("the receiver failed")

    batch_cancelled.connect(raises, dispatch_uid="test")
    try:
        with django_capture_on_commit_callbacks(execute=True):
            cancel(batch)
    finally:
        batch_cancelled.disconnect(dispatch_uid="test")

    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED


def test_one_log_line_names_the_actor_and_the_counts(harbour, caplog, django_capture_on_commit_callbacks):
    caplog.set_level(logging.INFO, "calls")
    batch = harbour.batch(queued=3, in_progress=2)

    with django_capture_on_commit_callbacks(execute=True):
        cancel(batch)

    (line,) = caplog.messages
    subject = f"batch={batch.pk} agency={harbour.agency.pk} source=api actor=staff:7"
    assert line.startswith(f"cancel {subject} outcome=cancelled skipped=3 in_progress=2 ms=")
    assert STAFF_ACTOR.label not in line
    assert PHONE not in line


def test_one_log_line_names_the_reason_of_a_refusal(harbour, caplog):
    caplog.set_level(logging.INFO, "calls")
    batch = harbour.batch(BatchStatus.COMPLETED)

    with pytest.raises(BatchAlreadyCompleted):
        cancel(batch)

    (line,) = caplog.messages
    assert "outcome=batch_already_completed ms=" in line


def test_a_rollback_of_the_callers_transaction_undoes_the_cancel(harbour):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    with transaction.atomic():
        cancel(batch)
        transaction.set_rollback(True)

    assert batch_snapshot(batch) == before


def test_cancel_adds_to_the_history_context_of_its_caller(harbour):
    batch = harbour.batch(queued=3)

    with pghistory.context(ticket="T-1"):
        batch.cancel(actor=STAFF_ACTOR, source=Source.COMMAND)

    assert batch.events.latest("pk").pgh_context == {
        "ticket": "T-1",
        "actor": {"kind": "staff", "id": "7", "label": "a staff user"},
        "via": "command",
        "contacts_skipped": 3,
    }
