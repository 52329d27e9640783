"""manage.py cancel_batch --all, and --reason."""

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.utils import timezone

from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
from calls.models.querysets import CallBatchQuerySet
from calls.statuses import BatchStatus
from calls.tests.support.dialling import change
from calls.tests.support.factories import batch_snapshot
from calls.tests.support.functions import latest_context

pytestmark = pytest.mark.django_db

ALL = ("cancel_batch", "--all", "--agency=harbour")
BAD_USAGE = [
    ([], "give at least one batch id, or --all and --agency"),
    (["--agency=harbour"], "give at least one batch id, or --all and --agency"),
    (["--all"], "--all requires --agency and cannot be combined with batch ids"),
    (["--all", "--agency="], "--all requires --agency and cannot be combined with batch ids"),
    (
        ["--all", "--agency=harbour", "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"],
        "--all requires --agency and cannot be combined with batch ids",
    ),
    (["--all", "--agency=nowhere"], "no agency with the slug"),
    (["--all", "--agency=harbour", "--reason", "x" * 501], "reason must be a string of at most 500 characters"),
    (["--all", "--agency=harbour", "--reason", "a\udcffb"], "reason must be a string of at most 500 characters"),
]


@pytest.fixture
def two_batches(harbour):
    """Two batches of Harbour, the one with the latest activity first."""
    older, newer = harbour.batch(queued=3, in_progress=1), harbour.batch(BatchStatus.PAUSED, pending=2)
    change(older, updated_at=timezone.now() - timedelta(minutes=1))
    return newer, older


def test_it_cancels_every_batch_of_the_agency_and_prints_the_counts(harbour, bluebell, run_command, two_batches):
    newer, older = two_batches
    other, ended = bluebell.batch(queued=1), harbour.batch(BatchStatus.COMPLETED)
    before = [batch_snapshot(batch) for batch in (other, ended)]

    assert run_command(*ALL) == (
        0,
        [
            f"{newer.pk}: cancelled. Contacts skipped: 2. Calls in progress, which will finish: 0.",
            f"{older.pk}: cancelled. Contacts skipped: 3. Calls in progress, which will finish: 1.",
        ],
    )
    assert [batch_snapshot(batch) for batch in (other, ended)] == before


def test_an_agency_without_batches_to_cancel_is_no_error(harbour, run_command):
    harbour.batch(BatchStatus.CANCELLED)

    assert run_command(*ALL) == (0, [])


def test_json_output_has_one_object_per_batch(run_command, two_batches):
    status, lines = run_command(*ALL, "--json")

    assert status == 0
    assert [json.loads(line) for line in lines] == [
        {"batch_id": str(two_batches[0].pk), "cancelled": True, "contacts_skipped": 2, "in_progress": 0},
        {"batch_id": str(two_batches[1].pk), "cancelled": True, "contacts_skipped": 3, "in_progress": 1},
    ]


def test_a_dry_run_prints_the_same_counts_and_writes_nothing(run_command, two_batches):
    before = [batch_snapshot(batch) for batch in two_batches]

    status, lines = run_command(*ALL, "--dry-run")

    assert status == 0
    assert lines == [
        f"{two_batches[0].pk}: would be cancelled. Contacts to skip: 2. Calls in progress, which will finish: 0.",
        f"{two_batches[1].pk}: would be cancelled. Contacts to skip: 3. Calls in progress, which will finish: 1.",
    ]
    assert [batch_snapshot(batch) for batch in two_batches] == before


def test_it_cancels_the_other_batches_when_one_fails(run_command, two_batches, monkeypatch):
    cancel = CallBatch.cancel

    def fail_for_the_first(self, **arguments):
        if self.pk == two_batches[0].pk:
            raise BatchUpdateFailed
        return cancel(self, **arguments)

    monkeypatch.setattr(CallBatch, "cancel", fail_for_the_first)

    status, lines = run_command(*ALL)

    assert status == 1
    assert lines == [
        f"{two_batches[0].pk}: not cancelled: Failed to update batch status (update_failed)",
        f"{two_batches[1].pk}: cancelled. Contacts skipped: 3. Calls in progress, which will finish: 1.",
    ]


@pytest.mark.parametrize("options", [["--all", "--agency=harbour"], None], ids=["all", "by id"])
def test_the_reason_is_kept_in_the_history_of_each_batch(run_command, two_batches, options):
    run_command("cancel_batch", "--reason", "Wrong script", *(options or [batch.pk for batch in two_batches]))

    for batch in two_batches:
        context = latest_context(batch)
        assert (context["reason"], context["via"], context["actor"]["kind"]) == ("Wrong script", "command", "os_user")


def test_the_reason_of_a_pause_is_kept_in_the_history(harbour, run_command):
    batch = harbour.batch()

    run_command("pause_batch", batch.pk, "--reason", "Wrong script")

    assert latest_context(batch)["reason"] == "Wrong script"


def test_without_a_reason_the_history_has_none(harbour, run_command):
    batch = harbour.batch()

    run_command("cancel_batch", batch.pk, "--reason", "")

    assert "reason" not in latest_context(batch)


@pytest.mark.parametrize(("arguments", "message"), BAD_USAGE, ids=lambda value: ascii(value)[:40])
def test_bad_usage_changes_nothing(harbour, arguments, message):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    with pytest.raises(CommandError, match=message) as bad_usage:
        call_command("cancel_batch", *arguments)

    # call_command() raises the parser's errors, which exit with 2, without their status.
    assert bad_usage.value.returncode == 2 or str(bad_usage.value).startswith("Error: ")
    assert batch_snapshot(batch) == before


def test_if_the_batches_cannot_be_read_nothing_is_cancelled(harbour, monkeypatch):
    def fail(self, *columns):
        raise OperationalError

    batch = harbour.batch(queued=1)
    monkeypatch.setattr(CallBatchQuerySet, "only", fail)

    with pytest.raises(CommandError, match=r"\(update_failed\): the batches could not be read") as failed:
        call_command(*ALL)

    assert failed.value.returncode == 1
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING
