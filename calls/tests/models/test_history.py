"""The history: one row for each batch made and each change of its status, kept for good."""

import pghistory
import pytest
from django.db import ProgrammingError, connection, transaction
from django.db.models import F

from calls.models import CallBatch, CallBatchEvent
from calls.statuses import BatchStatus
from calls.tests.support.factories import STAFF_ACTOR, cancel

pytestmark = pytest.mark.django_db


def story(batch):
    return list(batch.events.order_by("pk").values_list("pgh_label", "status"))


def test_it_begins_when_the_batch_is_made(harbour):
    assert story(harbour.batch()) == [("created", "pending"), ("status", "processing")]


def test_a_cancel_is_one_row_with_who_which_door_and_how_many(harbour):
    batch = harbour.batch(queued=3, completed=2)

    cancel(batch)

    *_, event = batch.events.order_by("pk")
    batch.refresh_from_db()
    assert story(batch)[2:] == [("status", "cancelled")]
    assert event.pgh_context == {"actor": STAFF_ACTOR.as_dict(), "via": "api", "contacts_skipped": 3}
    assert (event.queued, event.skipped, event.completed) == (0, 3, 2)
    assert event.completed_at == batch.completed_at


def test_counters_alone_are_no_history(harbour):
    batch = harbour.batch()

    CallBatch.objects.update(completed=F("completed") + 1, status=F("status"))

    assert len(story(batch)) == 2


def test_plain_sql_is_history_too_without_a_name(harbour):
    batch = harbour.batch()

    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET status = 'failed'")

    assert story(batch)[-1] == ("status", "failed")
    assert batch.events.latest("pk").pgh_context is None


def test_what_the_same_transaction_changes_next_is_not_put_down_to_who_cancelled(harbour):
    first, second = harbour.batch(), harbour.batch()

    with transaction.atomic():
        cancel(first)
        CallBatch.objects.filter(pk=second.pk).update(status=BatchStatus.PAUSED)

    assert first.events.latest("pk").pgh_context["via"] == "api"
    assert second.events.latest("pk").pgh_context is None


def test_a_callers_own_context_stays_as_it_was(harbour):
    first, second = harbour.batch(), harbour.batch()

    with pghistory.context(job="nightly"):
        cancel(first)
        CallBatch.objects.filter(pk=second.pk).update(status=BatchStatus.PAUSED)

    assert first.events.latest("pk").pgh_context["via"] == "api"
    assert second.events.latest("pk").pgh_context == {"job": "nightly"}


def test_ending_a_batch_once_more_is_no_history(harbour):
    batch = harbour.batch(BatchStatus.CANCELLED)
    before = story(batch)

    CallBatch.objects.update(status=BatchStatus.COMPLETED)

    assert story(batch) == before


@pytest.mark.parametrize("rewrite", [lambda events: events.update(status="completed"), lambda events: events.delete()])
def test_it_cannot_be_rewritten(harbour, rewrite):
    harbour.batch()

    with pytest.raises(ProgrammingError, match="Cannot update or delete rows"), transaction.atomic():
        rewrite(CallBatchEvent.objects.all())


def test_it_outlives_the_batch(harbour):
    batch = harbour.batch()

    CallBatch.objects.all().delete()

    assert CallBatchEvent.objects.filter(pgh_obj_id=batch.pk).count() == 2
