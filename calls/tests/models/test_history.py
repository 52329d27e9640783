"""The history: one row when a batch is created and one for each change of its status."""

import pghistory
import pytest
from django.db import ProgrammingError, connection, transaction
from django.db.models import F

from calls.models import CallBatch, CallBatchEvent
from calls.statuses import BatchStatus
from calls.tests.support.factories import STAFF_ACTOR, cancel

pytestmark = pytest.mark.django_db


def history_of(batch):
    return list(batch.events.order_by("pk").values_list("pgh_label", "status"))


def test_the_history_begins_when_the_batch_is_created(harbour):
    assert history_of(harbour.batch()) == [("created", "pending"), ("status", "processing")]


def test_a_cancel_adds_one_row_with_actor_source_and_counts(harbour):
    batch = harbour.batch(queued=3, completed=2)

    cancel(batch)

    *_, event = batch.events.order_by("pk")
    batch.refresh_from_db()
    assert history_of(batch)[2:] == [("status", "cancelled")]
    assert event.pgh_context == {"actor": STAFF_ACTOR.as_dict(), "via": "api", "contacts_skipped": 3}
    assert (event.queued, event.skipped, event.completed) == (0, 3, 2)
    assert event.completed_at == batch.completed_at


def test_a_change_of_counters_alone_adds_no_row(harbour):
    batch = harbour.batch()

    CallBatch.objects.update(completed=F("completed") + 1, status=F("status"))

    assert len(history_of(batch)) == 2


def test_a_change_by_plain_sql_adds_a_row_without_an_actor(harbour):
    batch = harbour.batch()

    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET status = 'failed'")

    assert history_of(batch)[-1] == ("status", "failed")
    assert batch.events.latest("pk").pgh_context is None


def test_a_later_change_in_the_same_transaction_is_not_attributed_to_the_cancel(harbour):
    first, second = harbour.batch(), harbour.batch()

    with transaction.atomic():
        cancel(first)
        CallBatch.objects.filter(pk=second.pk).update(status=BatchStatus.PAUSED)

    assert first.events.latest("pk").pgh_context["via"] == "api"
    assert second.events.latest("pk").pgh_context is None


def test_the_history_context_of_the_caller_is_restored(harbour):
    first, second = harbour.batch(), harbour.batch()

    with pghistory.context(job="nightly"):
        cancel(first)
        CallBatch.objects.filter(pk=second.pk).update(status=BatchStatus.PAUSED)

    assert first.events.latest("pk").pgh_context["via"] == "api"
    assert second.events.latest("pk").pgh_context == {"job": "nightly"}


def test_ending_a_finished_batch_again_adds_no_row(harbour):
    batch = harbour.batch(BatchStatus.CANCELLED)
    before = history_of(batch)

    CallBatch.objects.update(status=BatchStatus.COMPLETED)

    assert history_of(batch) == before


@pytest.mark.parametrize("rewrite", [lambda events: events.update(status="completed"), lambda events: events.delete()])
def test_history_rows_cannot_be_changed_or_deleted(harbour, rewrite):
    harbour.batch()

    with pytest.raises(ProgrammingError, match="Cannot update or delete rows"), transaction.atomic():
        rewrite(CallBatchEvent.objects.all())


def test_the_history_outlives_the_batch(harbour):
    batch = harbour.batch()

    CallBatch.objects.all().delete()

    assert CallBatchEvent.objects.filter(pgh_obj_id=batch.pk).count() == 2
