"""The dialler's passes and sweeps, run by cron over HTTP or with a command."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from calls.dialler.claims import claim_next_contact
from calls.dialler.sweep import SweepResult, run_sweep
from calls.models import CampaignContact
from calls.statuses import BatchStatus
from calls.tests.support.factories import FUNCTIONS, call

pytestmark = pytest.mark.django_db

IDLE = {
    "batches_processed": 0,
    "calls_initiated": 0,
    "calls_failed": 0,
    "processed": 0,
    "message": "No batches to process.",
}


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("configured", ["", "the-cron-secret"])
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Basic the-cron-secret", 401),
        ("Bearer the-cron-secret the-cron-secret", 401),
        ("Bearer the-cron-secret", 200),
        ("bearer   the-cron-secret", 200),
    ],
)
def test_the_process_endpoint_needs_the_cron_secret_and_is_not_found_if_the_settings_have_no_secret(
    settings, configured, header, status, method
):
    settings.CRON_SECRET = configured
    headers = {} if header is None else {"Authorization": header}

    answer = APIClient().generic(method, f"{FUNCTIONS}process", headers=headers)

    assert answer.status_code == (status if configured else 404)
    if status == 200 and configured:
        assert answer.json() == IDLE


def test_head_starts_no_pass(harbour, ultravox, settings):
    settings.CRON_SECRET = "the-cron-secret"
    harbour.batch(BatchStatus.PENDING, pending=1)

    answer = APIClient().head(f"{FUNCTIONS}process", headers={"Authorization": "Bearer the-cron-secret"})

    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST, OPTIONS")
    assert ultravox.asked == []


@pytest.mark.django_db(transaction=True)
def test_the_process_endpoint_and_the_command_place_the_calls_that_are_due(harbour, ultravox, settings, run_command):
    settings.CRON_SECRET = "the-cron-secret"
    harbour.batch(BatchStatus.PENDING, pending=3)
    answer = {"batches_processed": 1, "calls_initiated": 3, "calls_failed": 0}

    assert call(APIClient(), "process", Authorization="Bearer the-cron-secret").json() == answer
    harbour.batch(BatchStatus.PENDING, pending=3)
    by_get = APIClient().get(f"{FUNCTIONS}process", headers={"Authorization": "Bearer the-cron-secret"})
    assert by_get.json() == answer | {"batches_processed": 2}
    harbour.batch(BatchStatus.PENDING, pending=3)
    status, (line,) = run_command("process_batches")
    assert (status, json.loads(line)) == (0, answer | {"batches_processed": 3})


@pytest.mark.django_db(transaction=True)
def test_the_sweep_command_reports_its_work_and_exits_with_1_while_a_call_is_unclear(harbour, ultravox, run_command):
    batch = harbour.batch(queued=1)
    claim_next_contact(batch)
    CampaignContact.objects.update(last_attempt_at=timezone.now() - timedelta(hours=1))
    ultravox.listed = "<html>"

    status, (line,) = run_command("sweep_batches")
    assert (status, json.loads(line)["unclear"]) == (1, 1)
    ultravox.listed = None
    status, (line,) = run_command("sweep_batches")
    assert (status, json.loads(line)) == (0, {"recorded": 0, "given_back": 1, "ended": 0, "unclear": 0})
    assert run_sweep() == SweepResult()
