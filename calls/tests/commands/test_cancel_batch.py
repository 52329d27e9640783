"""manage.py cancel_batch: one line of output for each batch, and an exit status for scripts."""

import json
import os
import pwd
import shlex
import subprocess
import sys
import uuid
from functools import partial

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError

from calls.management.commands import cancel_batch
from calls.models import CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.factories import ROOT, batch_snapshot, cancel
from calls.tests.support.server import database_url

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(run_command):
    """Run cancel_batch, and return its exit status and the lines that it prints."""
    return partial(run_command, "cancel_batch")


def test_it_cancels_each_batch_and_prints_the_counts(harbour, run):
    first, second = harbour.batch(queued=342, in_progress=5), harbour.batch(pending=1)

    assert run(first.pk, second.pk) == (
        0,
        [
            f"{first.pk}: cancelled. Contacts skipped: 342. Calls in progress, which will finish: 5.",
            f"{second.pk}: cancelled. Contacts skipped: 1. Calls in progress, which will finish: 0.",
        ],
    )


def test_the_history_names_the_user_of_the_process_and_not_that_of_the_environment(harbour, run, monkeypatch):
    batch = harbour.batch(queued=1)
    monkeypatch.setattr("os.getuid", lambda: 65534)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "the.ceo\udcff")

    run(batch.pk)

    context = batch.events.latest("pk").pgh_context
    assert context["via"] == "command"
    assert context["actor"] == {"kind": "os_user", "id": "65534", "label": pwd.getpwuid(65534).pw_name}


def test_the_history_names_the_uid_of_a_user_without_a_name(harbour, run, monkeypatch):
    batch = harbour.batch(queued=1)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)

    run(batch.pk)

    assert batch.events.latest("pk").pgh_context["actor"]["label"] == "uid 4000000"


def test_it_cancels_the_other_batches_when_one_is_refused_or_unknown(harbour, run):
    refused, unknown, last = harbour.batch(BatchStatus.COMPLETED), uuid.uuid4(), harbour.batch(queued=2)

    assert run(refused.pk, unknown, last.pk) == (
        1,
        [
            f"{refused.pk}: not cancelled: Batch is already completed (batch_already_completed)",
            f"{unknown}: not cancelled: Batch not found (batch_not_found)",
            f"{last.pk}: cancelled. Contacts skipped: 2. Calls in progress, which will finish: 0.",
        ],
    )


@pytest.mark.parametrize("malformed", ["nonsense", "", "{01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10}", "1"])
def test_a_malformed_id_is_bad_usage_and_changes_nothing(harbour, malformed):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    with pytest.raises(CommandError, match="is not a batch id"):
        call_command("cancel_batch", str(batch.pk), malformed)

    assert batch_snapshot(batch) == before


def test_a_missing_id_is_bad_usage():
    with pytest.raises(CommandError, match="give at least one batch id"):
        call_command("cancel_batch")


def test_with_an_agency_it_finds_only_batches_of_that_agency(harbour, bluebell, run):
    own, other = harbour.batch(queued=1), bluebell.batch(queued=1)

    assert run(own.pk, other.pk, "--agency", "harbour") == (
        1,
        [
            f"{own.pk}: cancelled. Contacts skipped: 1. Calls in progress, which will finish: 0.",
            f"{other.pk}: not cancelled: Batch not found (batch_not_found)",
        ],
    )


@pytest.mark.parametrize("slug", ["nowhere", "", "\udcff"], ids=ascii)
def test_an_unknown_agency_is_bad_usage_and_changes_nothing(harbour, slug):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    with pytest.raises(CommandError, match="no agency with the slug") as bad_usage:
        call_command("cancel_batch", str(batch.pk), "--agency", slug)

    assert bad_usage.value.returncode == 2
    assert batch_snapshot(batch) == before


def test_a_dry_run_prints_the_same_counts_and_writes_nothing(harbour, run):
    batch, finished = harbour.batch(queued=3, in_progress=1), harbour.batch(BatchStatus.CANCELLED)
    before = batch_snapshot(batch)

    assert run(batch.pk, finished.pk, "--dry-run") == (
        1,
        [
            f"{batch.pk}: would be cancelled. Contacts to skip: 3. Calls in progress, which will finish: 1.",
            f"{finished.pk}: not cancelled: Batch is already cancelled (batch_already_cancelled)",
        ],
    )
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_an_id_given_twice_is_one_batch_and_one_line(harbour, run, dry_run):
    batch = harbour.batch(queued=1)

    status, lines = run(batch.pk, str(batch.pk).upper(), *dry_run)

    assert (status, len(lines)) == (0, 1)


def test_json_output_has_one_object_per_line(harbour, run):
    batch, finished = harbour.batch(queued=3, in_progress=1), harbour.batch(queued=1)
    cancel(finished)

    status, lines = run(batch.pk, finished.pk, "--json")

    assert status == 1
    assert [json.loads(line) for line in lines] == [
        {"batch_id": str(batch.pk), "cancelled": True, "contacts_skipped": 3, "in_progress": 1},
        {
            "batch_id": str(finished.pk),
            "cancelled": False,
            "error": "Batch is already cancelled",
            "code": "batch_already_cancelled",
        },
    ]


def test_json_output_of_a_dry_run_says_would_cancel_instead_of_cancelled(harbour, run):
    batch = harbour.batch(queued=3)

    status, (line,) = run(batch.pk, "--json", "--dry-run")

    assert status == 0
    assert json.loads(line) == {
        "batch_id": str(batch.pk),
        "would_cancel": True,
        "contacts_skipped": 3,
        "in_progress": 0,
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("output", [">&-", "> /dev/full", ">&- 2>&-", "| true"])
@pytest.mark.parametrize("command", ["cancel_batch", "pause_batch"])
def test_every_batch_is_changed_even_if_the_output_cannot_be_written(harbour, command, output):
    batches = [harbour.batch(queued=1) for _ in range(3)]
    line = f"{shlex.join([sys.executable, 'manage.py', command, *(str(batch.pk) for batch in batches)])} {output}"
    environment = os.environ | {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "agency_backend.settings"}

    shell = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, timeout=60
    )

    assert (shell.returncode, "Traceback" in shell.stderr) == (0, False)
    assert set(CallBatch.objects.values_list("status", flat=True)) == {
        BatchStatus.CANCELLED if command == "cancel_batch" else BatchStatus.PAUSED
    }


def test_it_cancels_even_if_a_system_check_fails(harbour, settings):
    settings.DJANGO_SECRET_KEY = settings.DEMO_SECRET_KEY
    batch = harbour.batch(queued=1)
    with pytest.raises(SystemCheckError):
        call_command("check")

    options = {"all": False, "agency": None, "dry_run": False, "json": False, "force_color": False, "no_color": False}
    cancel_batch.Command().execute(batch_ids=[batch.pk], skip_checks=False, **options)

    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED
