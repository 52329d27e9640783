"""CallBatchQuerySet.cancel_all() and preview_cancel_all(): one batch after the other, each by CallBatch.cancel()."""

import psycopg
import pytest
from django.db import OperationalError, connection

from calls.audit import Source
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
from calls.models.querysets import CallBatchQuerySet
from calls.statuses import FINAL, BatchStatus
from calls.tests.support.factories import STAFF_ACTOR, batch_snapshot, cancel

pytestmark = pytest.mark.django_db


def cancel_all(batches=None):
    batches = CallBatch.objects.all() if batches is None else batches
    return batches.cancel_all(actor=STAFF_ACTOR, source=Source.API)


def preview_cancel_all():
    return CallBatch.objects.all().preview_cancel_all()


BOTH = pytest.mark.parametrize("verb", [cancel_all, preview_cancel_all])


def fail_for(monkeypatch, failing, error):
    """Let the cancel and the preview of these batches fail. Returns the list of the batches that were tried."""
    tried = []
    for verb in ("cancel", "preview_cancel"):
        original = getattr(CallBatch, verb)

        def fail(self, original=original, **arguments):
            tried.append(self)
            if self in failing:
                raise error
            return original(self, **arguments)

        monkeypatch.setattr(CallBatch, verb, fail)
    return tried


def failure(cause):
    """Return the error of a cancel whose database error has this cause."""
    database_error = OperationalError()
    database_error.__cause__ = cause
    error = BatchUpdateFailed()
    error.__cause__ = database_error
    return error


def test_every_batch_that_can_be_cancelled_is_cancelled(harbour):
    batches = {harbour.batch(status, queued=1) for status in BatchStatus if status not in FINAL}
    for status in FINAL:
        harbour.batch(status)

    outcomes = list(cancel_all())

    assert {batch for batch, _ in outcomes} == batches
    assert {result.status for _, result in outcomes} == {BatchStatus.CANCELLED}
    assert all(CallBatch.objects.get(pk=batch.pk).status == BatchStatus.CANCELLED for batch in batches)


def test_only_batches_of_the_queryset_are_cancelled(harbour):
    chosen, other = harbour.batch(queued=1), harbour.batch(queued=1)
    before = batch_snapshot(other)

    list(cancel_all(CallBatch.objects.filter(pk=chosen.pk)))

    assert batch_snapshot(other) == before


def test_each_batch_is_cancelled_when_the_iterator_reaches_it(harbour):
    for _ in range(3):
        harbour.batch(queued=1)

    outcomes = cancel_all()
    next(outcomes)
    outcomes.close()

    assert CallBatch.objects.filter(status=BatchStatus.CANCELLED).count() == 1
    assert len(list(cancel_all())) == 2


@BOTH
def test_a_batch_that_is_cancelled_meanwhile_is_left_out(harbour, verb):
    batches = {harbour.batch(queued=1) for _ in range(3)}

    outcomes = verb()
    first, _ = next(outcomes)
    meanwhile = next(batch for batch in batches if batch != first)
    cancel(meanwhile)

    assert {batch for batch, _ in outcomes} == batches - {first, meanwhile}


@BOTH
def test_a_batch_that_is_deleted_meanwhile_is_left_out(harbour, verb):
    batches = {harbour.batch() for _ in range(3)}

    outcomes = verb()
    first, _ = next(outcomes)
    meanwhile = next(batch for batch in batches if batch != first)
    CallBatch.objects.filter(pk=meanwhile.pk).delete()

    assert {batch for batch, _ in outcomes} == batches - {first, meanwhile}


def test_a_batch_that_is_created_meanwhile_is_not_cancelled(harbour):
    harbour.batch()
    outcomes = cancel_all()
    next(outcomes)

    new = harbour.batch()

    assert list(outcomes) == []
    new.refresh_from_db()
    assert new.status == BatchStatus.PROCESSING


@BOTH
def test_a_batch_that_fails_is_returned_with_its_error(harbour, verb, monkeypatch):
    batches = {harbour.batch() for _ in range(3)}
    failing = min(batches, key=lambda batch: batch.pk)
    error = failure(psycopg.errors.LockNotAvailable())
    fail_for(monkeypatch, [failing], error)

    outcomes = dict(verb())

    assert set(outcomes) == batches
    assert [batch for batch, outcome in outcomes.items() if outcome is error] == [failing]


@BOTH
def test_after_two_lost_connections_in_a_row_the_batches_that_are_left_fail_without_a_try(harbour, verb, monkeypatch):
    batches = [harbour.batch() for _ in range(4)]
    error = failure(psycopg.OperationalError("the connection is lost"))
    tried = fail_for(monkeypatch, batches, error)

    outcomes = list(verb())

    assert len(tried) == 2
    assert {batch for batch, _ in outcomes} == set(batches)
    assert all(outcome is error for _, outcome in outcomes)


@BOTH
def test_after_lost_connections_that_are_not_in_a_row_the_other_batches_are_tried(harbour, verb, monkeypatch):
    batches = [harbour.batch(queued=1) for _ in range(5)]
    error = failure(psycopg.OperationalError("the connection is lost"))
    tried = fail_for(monkeypatch, [batches[1], batches[3]], error)

    outcomes = dict(verb())

    assert set(tried) == set(batches)
    assert {batch for batch, outcome in outcomes.items() if outcome is error} == {batches[1], batches[3]}


@BOTH
def test_if_the_batches_cannot_be_read_nothing_is_changed(harbour, verb, monkeypatch):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    def fail(self, *columns):
        raise OperationalError

    monkeypatch.setattr(CallBatchQuerySet, "only", fail)
    with pytest.raises(BatchUpdateFailed):
        list(verb())

    monkeypatch.undo()
    assert batch_snapshot(batch) == before


def test_a_preview_has_the_numbers_of_the_cancel_and_writes_nothing(harbour):
    batches = [harbour.batch(queued=3, in_progress=2), harbour.batch(BatchStatus.PAUSED, pending=1)]
    before = [batch_snapshot(batch) for batch in batches]

    previewed = {batch: (result.contacts_skipped, result.in_progress) for batch, result in preview_cancel_all()}

    assert [batch_snapshot(batch) for batch in batches] == before
    assert previewed == {batches[0]: (3, 2), batches[1]: (1, 0)}
    assert {batch: (result.contacts_skipped, result.in_progress) for batch, result in cancel_all()} == previewed


def test_a_batch_with_an_unreadable_value_is_cancelled(harbour):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET scheduled_for = 'infinity'")

    assert [cancelled for cancelled, _ in cancel_all()] == [batch]
