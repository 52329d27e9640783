"""reconcile(): wrong counters, and contacts that another service's cancel left dialable."""

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


def overwrite(batch, **counters):
    CallBatch.objects.filter(pk=batch.pk).update(**counters)


def reconcile_batches(*options):
    """Run the command. Return its exit status and its output."""
    out, code = StringIO(), 0
    try:
        call_command("reconcile_batches", *options, stdout=out)
    except SystemExit as exit_:
        code = exit_.code
    return code, out.getvalue()


def test_a_consistent_batch_is_not_reported(harbour):
    batch = harbour.batch(queued=2, pending=1, completed=3, failed=1, in_progress=1, skipped=1)

    assert reconcile(batch.pk) is None
    assert reconcile_batches() == (0, "")


def test_every_counter_is_compared_with_a_fresh_count(harbour):
    batch = harbour.batch(queued=2, pending=1, completed=3)
    overwrite(batch, queued=-1, completed=9, failed=1, total_contacts=5)

    assert reconcile(batch.pk) == Discrepancy(
        batch.pk,
        "processing",
        {"queued": (-1, 3), "completed": (9, 3), "failed": (1, 0), "total_contacts": (5, 6)},
        left_behind=0,
    )


def test_without_fix_nothing_is_changed(harbour):
    batch = harbour.batch(queued=2)
    overwrite(batch, queued=9)
    before = batch_snapshot(batch)

    code, output = reconcile_batches()

    assert (code, output) == (1, f"{batch.pk} (processing): queued is 9, counted 2\n")
    assert batch_snapshot(batch) == before


def test_fix_corrects_the_counters_and_nothing_else(harbour):
    batch = harbour.batch(queued=2, completed=1)
    overwrite(batch, queued=9, skipped=4)
    other = {
        name: value
        for name, value in batch_snapshot(batch)[0][0].items()
        if name not in ("queued", "skipped", "updated_at")
    }

    code, output = reconcile_batches("--fix")

    assert code == 0
    assert output.endswith("Corrected.\n")
    batch.refresh_from_db()
    assert (batch.queued, batch.skipped) == (2, 0)
    assert {name: getattr(batch, name) for name in other} == other
    assert reconcile_batches() == (0, "")


@pytest.mark.parametrize("finished", [BatchStatus.CANCELLED, BatchStatus.COMPLETED])
def test_dialable_contacts_of_a_finished_batch_are_reported_and_skipped(harbour, finished):
    batch = harbour.batch(queued=2, in_progress=1, completed=1)
    overwrite(batch, status=finished)

    assert reconcile_batches() == (1, f"{batch.pk} ({finished}): contacts left to dial: 2\n")
    assert reconcile_batches("--fix")[0] == 0

    assert count(batch, ContactStatus.SKIPPED) == 2
    assert count(batch, ContactStatus.IN_PROGRESS) == 1
    assert set(batch.contacts.filter(status="skipped").values_list("outcome_notes", flat=True)) == {f"Batch {finished}"}
    batch.refresh_from_db()
    assert (batch.status, batch.queued, batch.skipped) == (finished, 0, 2)


def test_dialable_contacts_of_a_failed_batch_are_left_alone(harbour):
    batch = harbour.batch(BatchStatus.FAILED, queued=2)

    assert reconcile_batches("--fix") == (0, "")
    assert count(batch, ContactStatus.QUEUED) == 2


def test_a_batch_that_cannot_be_compared_is_reported(harbour, monkeypatch):
    batch = harbour.batch(queued=2)

    def fails(self):
        raise OperationalError

    monkeypatch.setattr("calls.models.querysets.CampaignContactQuerySet.counters", fails)

    code, output = reconcile_batches()

    assert (code, f"{batch.pk}: not compared: Failed to update batch status" in output) == (1, True)


@pytest.mark.django_db(transaction=True)
def test_reconcile_waits_for_the_lock_of_the_batch_and_counts_afterwards(harbour):
    batch = harbour.batch(queued=3)

    with PausedThread(lambda: batch.cancel(actor=STAFF_ACTOR, source="api"), after="campaign_contacts") as cancelling:
        fixing = PausedThread(lambda: reconcile(batch.pk, fix=True))
        fixing.start()
        assert wait_for_lock_waiter()
        cancelling.release()

    assert fixing.release() is None


@pytest.mark.django_db(transaction=True)
def test_control_without_the_lock_reconcile_writes_outdated_counters(harbour, without_lock):
    batch = harbour.batch(queued=3)
    overwrite(batch, queued=9)

    with PausedThread(lambda: reconcile(batch.pk, fix=True), after="COUNT"):
        CampaignContact.objects.filter(batch=batch).update(status=ContactStatus.SKIPPED)
        overwrite(batch, queued=0, skipped=3)

    batch.refresh_from_db()
    assert batch.queued != 0
