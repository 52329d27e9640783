"""CallBatch.cancel(): what it writes, what it leaves alone, what it refuses."""

import logging

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

LIVE = [status for status in BatchStatus if status not in FINAL]


def test_it_skips_every_contact_not_yet_called(harbour):
    batch = harbour.batch(pending=2, queued=3, scheduled=4)

    result = cancel(batch)

    assert result == CancelResult(batch.pk, harbour.agency.pk, BatchStatus.CANCELLED, contacts_skipped=9, in_progress=0)
    assert count(batch, ContactStatus.SKIPPED) == 9


def test_it_touches_no_other_contact(harbour):
    batch = harbour.batch(queued=1, in_progress=2, completed=3, failed=4, skipped=5)
    others = batch.contacts.exclude(status__in=DIALABLE).order_by("pk")
    before = list(others.values())

    cancel(batch)

    assert list(others.filter(outcome_notes=None).values()) == before


def test_it_touches_no_contact_of_another_batch(harbour):
    batch, other = harbour.batch(queued=1), harbour.batch(queued=1)
    before = batch_snapshot(other)

    cancel(batch)

    assert batch_snapshot(other) == before


def test_it_writes_three_columns_of_a_skipped_contact_and_no_other(harbour):
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


@pytest.mark.own_tables
def test_it_writes_these_columns_of_the_batch_and_no_other(harbour):
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


def test_every_time_it_writes_is_its_transactions_own(harbour):
    batch = harbour.batch(queued=2)

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
        cancel(batch)

    batch.refresh_from_db()
    assert {batch.completed_at, batch.updated_at, *batch.contacts.values_list("updated_at", flat=True)} == {now}


def test_the_counters_still_add_up(harbour):
    batch = harbour.batch(pending=1, queued=2, scheduled=3, in_progress=4, completed=5, failed=6, skipped=7)

    cancel(batch)

    batch.refresh_from_db()
    contacts = dict(batch.contacts.values_list("status").annotate(Count("pk")))
    assert contacts == {"in_progress": 4, "completed": 5, "failed": 6, "skipped": 13}
    assert {name: getattr(batch, name) for name in contacts} == contacts
    assert batch.queued + sum(contacts.values()) == batch.total_contacts


@pytest.mark.parametrize("status", LIVE)
def test_it_cancels_a_batch_that_is(harbour, status):
    batch = harbour.batch(status, queued=1)

    assert cancel(batch).contacts_skipped == 1


def test_a_batch_without_anybody_left_to_call_can_be_cancelled(harbour):
    batch = harbour.batch(in_progress=1, completed=1)

    assert cancel(batch).contacts_skipped == 0


def test_the_number_skipped_is_the_updates_own_and_not_a_counters(harbour):
    batch = harbour.batch(queued=3)
    CallBatch.objects.update(queued=-40, skipped=-2)

    assert cancel(batch).contacts_skipped == 3
    batch.refresh_from_db()
    assert (batch.queued, batch.skipped) == (0, 1)


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(BatchStatus.COMPLETED, BatchAlreadyCompleted), (BatchStatus.CANCELLED, BatchAlreadyCancelled)],
)
def test_it_refuses_a_batch_that_has_ended_and_changes_nothing(harbour, status, refusal):
    batch = harbour.batch(status, completed=1, skipped=1)
    before = batch_snapshot(batch)

    with pytest.raises(refusal):
        cancel(batch)

    assert batch_snapshot(batch) == before


def test_it_does_not_believe_the_instance_it_is_called_on(harbour):
    batch = harbour.batch(queued=1)
    cancel(batch)
    assert batch.status == BatchStatus.PROCESSING

    with pytest.raises(BatchAlreadyCancelled) as refused:
        cancel(batch)

    assert refused.value.status == BatchStatus.CANCELLED


def test_it_refuses_a_batch_that_is_gone(harbour):
    batch = harbour.batch()
    CallBatch.objects.all().delete()

    with pytest.raises(BatchNotFound):
        cancel(CallBatch(pk=batch.pk, agency=harbour.agency))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("contacts", [3, 300])
def test_it_sends_five_statements_for_any_number_of_contacts(harbour, contacts):
    batch = harbour.batch(queued=contacts)

    with CaptureQueriesContext(
        connection,
    ) as queries:
        cancel(batch)

    assert [query["sql"].split("; ")[-1].split()[0] for query in queries] == [
        *("BEGIN", "SELECT", "SELECT", "SELECT", "UPDATE", "UPDATE", "COMMIT")
    ]


@pytest.mark.own_tables
def test_it_reads_a_batchs_contacts_through_an_index(harbour):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")

    plan = batch.contacts.dialable().explain()

    assert "contact_in_order" in plan


def test_preview_says_what_cancel_would_do_and_writes_nothing(harbour):
    batch = harbour.batch(queued=3, in_progress=2)
    before = batch_snapshot(batch)

    preview = batch.preview_cancel()

    assert batch_snapshot(batch) == before
    assert preview == cancel(batch)


def test_preview_refuses_what_cancel_refuses(harbour):
    batch = harbour.batch(BatchStatus.COMPLETED)

    with pytest.raises(BatchAlreadyCompleted):
        batch.preview_cancel()


def test_listeners_hear_of_it_after_the_commit(harbour, django_capture_on_commit_callbacks):
    batch = harbour.batch(queued=3)
    heard = []
    batch_cancelled.connect(lambda result, **kwargs: heard.append(result), weak=False, dispatch_uid="test")
    try:
        with django_capture_on_commit_callbacks(execute=True):
            result = cancel(batch)
            assert heard == []
    finally:
        batch_cancelled.disconnect(dispatch_uid="test")

    assert heard == [result]


def test_a_listener_that_raises_changes_nothing(harbour, django_capture_on_commit_callbacks):
    batch = harbour.batch(queued=3)

    def raises(**kwargs):
        raise RuntimeError("a listener's own trouble")

    batch_cancelled.connect(raises, dispatch_uid="test")
    try:
        with django_capture_on_commit_callbacks(execute=True):
            cancel(batch)
    finally:
        batch_cancelled.disconnect(dispatch_uid="test")

    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED


def test_one_line_in_the_log_says_who_and_how_many(harbour, caplog, django_capture_on_commit_callbacks):
    caplog.set_level(logging.INFO, "calls")
    batch = harbour.batch(queued=3, in_progress=2)

    with django_capture_on_commit_callbacks(execute=True):
        cancel(batch)

    (line,) = caplog.messages
    who = f"batch={batch.pk} agency={harbour.agency.pk} source=api actor=staff:7"
    assert line.startswith(f"cancel {who} outcome=cancelled skipped=3 in_progress=2 ms=")
    assert STAFF_ACTOR.label not in line
    assert PHONE not in line


def test_one_line_in_the_log_says_what_was_refused(harbour, caplog):
    caplog.set_level(logging.INFO, "calls")
    batch = harbour.batch(BatchStatus.COMPLETED)

    with pytest.raises(BatchAlreadyCompleted):
        cancel(batch)

    (line,) = caplog.messages
    assert "outcome=batch_already_completed ms=" in line


def test_a_callers_transaction_that_rolls_back_takes_the_cancel_with_it(harbour):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    with transaction.atomic():
        cancel(batch)
        transaction.set_rollback(True)

    assert batch_snapshot(batch) == before


def test_it_can_be_called_inside_somebody_elses_history_context(harbour):
    batch = harbour.batch(queued=3)

    with pghistory.context(ticket="T-1"):
        batch.cancel(actor=STAFF_ACTOR, source=Source.COMMAND)

    assert batch.events.latest("pk").pgh_context == {
        "ticket": "T-1",
        "actor": {"kind": "staff", "id": "7", "label": "somebody"},
        "via": "command",
        "contacts_skipped": 3,
    }
