"""manage.py pause_batch and resume_batch."""

import json
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from calls.models import CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.factories import batch_snapshot

pytestmark = pytest.mark.django_db


def test_pause_batch_pauses_each_batch_and_prints_the_counts(harbour, run_command):
    first, second = harbour.batch(queued=3, in_progress=1), harbour.batch(BatchStatus.SCHEDULED, pending=2)

    assert run_command("pause_batch", first.pk, second.pk) == (
        0,
        [
            f"{first.pk}: paused. Contacts that wait: 3. Calls in progress, which will finish: 1.",
            f"{second.pk}: paused. Contacts that wait: 2. Calls in progress, which will finish: 0.",
        ],
    )
    assert set(CallBatch.objects.values_list("status", flat=True)) == {"paused"}


def test_resume_batch_prints_the_new_status_of_each_batch(harbour, run_command):
    now, later = harbour.batch(BatchStatus.PAUSED, queued=3), harbour.batch(BatchStatus.PAUSED, pending=2)
    CallBatch.objects.filter(pk=later.pk).update(scheduled_for=timezone.now() + timedelta(hours=1))

    assert run_command("resume_batch", now.pk, later.pk) == (
        0,
        [
            f"{now.pk}: resumed. Status: processing. Contacts left to dial: 3.",
            f"{later.pk}: resumed. Status: scheduled. Contacts left to dial: 2.",
        ],
    )


@pytest.mark.parametrize(
    ("command", "done", "code"),
    [("pause_batch", "paused", "batch_not_pausable"), ("resume_batch", "resumed", "batch_not_paused")],
)
def test_they_change_the_other_batches_when_one_is_refused_or_unknown(harbour, run_command, command, done, code):
    wrong = harbour.batch(BatchStatus.CANCELLED)
    right = harbour.batch(BatchStatus.PROCESSING if done == "paused" else BatchStatus.PAUSED)

    status, lines = run_command(command, wrong.pk, uuid.uuid4(), right.pk)

    assert status == 1
    assert lines[0].startswith(f"{wrong.pk}: not {done}: ")
    assert lines[0].endswith(f"({code})")
    assert lines[1].endswith(f"not {done}: Batch not found (batch_not_found)")
    assert lines[2].startswith(f"{right.pk}: {done}. ")


def test_a_dry_run_prints_the_same_counts_and_writes_nothing(harbour, run_command):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    assert run_command("pause_batch", batch.pk, "--dry-run") == (
        0,
        [f"{batch.pk}: would be paused. Contacts that wait: 3. Calls in progress, which will finish: 0."],
    )
    assert batch_snapshot(batch) == before


def test_json_output_has_one_object_per_line(harbour, run_command):
    batch = harbour.batch(queued=3, in_progress=1)

    lines = [
        json.loads(line)
        for arguments in (["pause_batch", "--dry-run"], ["pause_batch"], ["resume_batch"], ["resume_batch"])
        for line in run_command(*arguments, batch.pk, "--json")[1]
    ]

    numbers = {"batch_id": str(batch.pk), "queued": 3, "in_progress": 1}
    assert lines == [
        {"would_pause": True, **numbers},
        {"paused": True, **numbers},
        {"resumed": True, "status": "processing", **numbers},
        {
            "batch_id": str(batch.pk),
            "resumed": False,
            "error": "Only a paused batch can be resumed",
            "code": "batch_not_paused",
        },
    ]


@pytest.mark.parametrize("command", ["pause_batch", "resume_batch"])
def test_with_an_agency_they_find_only_batches_of_that_agency(harbour, bluebell, run_command, command):
    batch = bluebell.batch(BatchStatus.PROCESSING if command == "pause_batch" else BatchStatus.PAUSED)

    assert run_command(command, batch.pk, "--agency=harbour")[0] == 1
    assert run_command(command, batch.pk, "--agency=bluebell")[0] == 0


def test_a_malformed_id_is_bad_usage_and_changes_nothing(harbour):
    batch = harbour.batch()

    with pytest.raises(CommandError, match="'nonsense' is not a batch id"):
        call_command("pause_batch", str(batch.pk), "nonsense")

    batch.refresh_from_db()
    assert batch.status == BatchStatus.PROCESSING


def test_the_history_names_the_command_and_its_user(harbour, run_command):
    batch = harbour.batch()

    run_command("pause_batch", batch.pk)

    context = batch.events.latest("pk").pgh_context
    assert (context["via"], context["actor"]["kind"]) == ("command", "os_user")
