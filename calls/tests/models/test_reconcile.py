"""Counters that have drifted, and contacts that a foreign cancel has left behind."""

from io import StringIO

import pytest
from django.core.management import call_command
from django.db import OperationalError

from calls.models import CallBatch, CampaignContact
from calls.models.reconciliation import Discrepancy, reconcile
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import STAFF_ACTOR, batch_snapshot, count

pytestmark = pytest.mark.django_db


def drift(batch, **counters):
    CallBatch.objects.filter(pk=batch.pk).update(**counters)


def reconcile_batches(*options):
    """What the command says, and what it exits with."""
    out, code = StringIO(), 0
    try:
        call_command("reconcile_batches", *options, stdout=out)
    except SystemExit as exit_:
        code = exit_.code
    return code, out.getvalue()


def test_a_batch_that_is_as_it_should_be_is_not_mentioned(harbour):
    batch = harbour.batch(queued=2, pending=1, completed=3, failed=1, in_progress=1, skipped=1)

    assert reconcile(batch.pk) is None
    assert reconcile_batches() == (0, "")


def test_every_counter_is_compared_with_a_fresh_count(harbour):
    batch = harbour.batch(queued=2, pending=1, completed=3)
    drift(batch, queued=-1, completed=9, failed=1, total_contacts=5)

    assert reconcile(batch.pk) == Discrepancy(
        batch.pk,
        "processing",
        {"queued": (-1, 3), "completed": (9, 3), "failed": (1, 0), "total_contacts": (5, 6)},
        left_behind=0,
    )


def test_looking_changes_nothing(harbour):
    batch = harbour.batch(queued=2)
    drift(batch, queued=9)
    before = batch_snapshot(batch)

    code, said = reconcile_batches()

    assert (code, said) == (1, f"{batch.pk} (processing): queued said 9, counted 2\n")
    assert batch_snapshot(batch) == before


def test_fixing_sets_the_counters_right_and_nothing_else(harbour):
    batch = harbour.batch(queued=2, completed=1)
    drift(batch, queued=9, skipped=4)
    other = {
        name: value
        for name, value in batch_snapshot(batch)[0][0].items()
        if name not in ("queued", "skipped", "updated_at")
    }

    code, said = reconcile_batches("--fix")

    assert code == 0
    assert said.endswith("Mended.\n")
    batch.refresh_from_db()
    assert (batch.queued, batch.skipped) == (2, 0)
    assert {name: getattr(batch, name) for name in other} == other
    assert reconcile_batches() == (0, "")


@pytest.mark.parametrize("ended", [BatchStatus.CANCELLED, BatchStatus.COMPLETED])
def test_contacts_left_in_a_batch_that_has_ended_are_found_and_skipped(harbour, ended):
    batch = harbour.batch(queued=2, in_progress=1, completed=1)
    drift(batch, status=ended)

    assert reconcile_batches() == (1, f"{batch.pk} ({ended}): contacts left to dial: 2\n")
    assert reconcile_batches("--fix")[0] == 0

    assert count(batch, ContactStatus.SKIPPED) == 2
    assert count(batch, ContactStatus.IN_PROGRESS) == 1
    assert set(batch.contacts.filter(status="skipped").values_list("outcome_notes", flat=True)) == {f"Batch {ended}"}
    batch.refresh_from_db()
    assert (batch.status, batch.queued, batch.skipped) == (ended, 0, 2)


def test_contacts_of_a_batch_that_failed_are_left_to_whoever_resumes_it(harbour):
    batch = harbour.batch(BatchStatus.FAILED, queued=2)

    assert reconcile_batches("--fix") == (0, "")
    assert count(batch, ContactStatus.QUEUED) == 2


def test_a_batch_that_cannot_be_compared_is_told(harbour, monkeypatch):
    batch = harbour.batch(queued=2)

    def fails(self):
        raise OperationalError

    monkeypatch.setattr("calls.models.querysets.CampaignContactQuerySet.counters", fails)

    code, said = reconcile_batches()

    assert (code, f"{batch.pk}: not compared: Failed to update batch status" in said) == (1, True)


@pytest.mark.django_db(transaction=True)
def test_it_waits_for_whoever_has_the_batch_and_counts_what_they_leave(harbour):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: batch.cancel(actor=STAFF_ACTOR, source="api"), after="campaign_contacts") as cancelling:
        fixing = PausedThread(lambda: reconcile(batch.pk, fix=True))
        fixing.start()
        assert wait_for_lock_waiter()
        cancelling.release()

    assert fixing.release() is None


@pytest.mark.django_db(transaction=True)
def test_control_without_the_lock_it_sets_counters_that_are_no_longer_true(harbour, monkeypatch):
    batch = harbour.batch(queued=3)
    monkeypatch.setattr("calls.models.querysets.CallBatchQuerySet.select_for_update", lambda self, **options: self)
    drift(batch, queued=9)

    with PausedThread(lambda: reconcile(batch.pk, fix=True), after="COUNT"):
        CampaignContact.objects.filter(batch=batch).update(status=ContactStatus.SKIPPED)
        drift(batch, queued=0, skipped=3)

    batch.refresh_from_db()
    assert batch.queued != 0
