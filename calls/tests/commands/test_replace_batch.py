"""manage.py replace_batch."""

import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from calls.models import AgencyPhoneNumber, AgentMapping, CallBatch, Campaign
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import BatchStatus
from calls.tests.support.factories import CALLER_ID, checked_counters
from calls.tests.support.functions import latest_context
from calls.tests.support.replacements import cancelled_batch

pytestmark = pytest.mark.django_db

OTHER_NUMBER = "+12125550177"


def replacement_of(batch):
    return CallBatch.objects.get(replaces=batch)


def test_it_creates_a_batch_with_the_skipped_contacts_and_prints_its_id(harbour, run_command):
    cancelled = cancelled_batch(harbour, queued=2, completed=1)

    status, lines = run_command("replace_batch", cancelled.pk)

    batch = replacement_of(cancelled)
    assert (status, lines) == (0, [f"{cancelled.pk}: replaced by {batch.pk}, pending. Contacts: 2."])
    assert checked_counters(batch) == {"total_contacts": 2, "queued": 2}


def test_each_option_replaces_a_value_of_the_cancelled_batch(harbour, run_command):
    cancelled = cancelled_batch(harbour)
    agent = AgentMapping.objects.create(agency=harbour.agency, ultravox_agent_id="another")
    campaign = Campaign.objects.create(agency=harbour.agency, name="Autumn")
    AgencyPhoneNumber.objects.create(agency=harbour.agency, phone_number=OTHER_NUMBER)

    _, (line,) = run_command(
        *("replace_batch", cancelled.pk, "--agent-mapping", agent.pk, "--campaign", campaign.pk),
        *("--from-number", OTHER_NUMBER, "--calls-per-minute", 7, "--max-concurrent", 3),
        *("--scheduled-for", "2099-01-01T00:00:00Z"),
    )

    batch = replacement_of(cancelled)
    assert ", scheduled. " in line
    assert (batch.agent_mapping, batch.campaign, batch.from_number) == (agent, campaign, OTHER_NUMBER)
    assert (batch.calls_per_minute, batch.max_concurrent, batch.status) == (7, 3, BatchStatus.SCHEDULED)
    assert batch.scheduled_for.year == 2099


def test_the_history_names_the_command_and_its_user(harbour, run_command):
    cancelled = cancelled_batch(harbour)

    run_command("replace_batch", cancelled.pk)

    context = latest_context(replacement_of(cancelled))
    assert (context["via"], context["actor"]["kind"]) == ("command", "os_user")


def test_with_an_agency_it_finds_only_batches_of_that_agency(harbour, bluebell, run_command):
    cancelled = cancelled_batch(bluebell)

    with pytest.raises(CommandError, match=r"not replaced: Batch not found \(batch_not_found\)") as refused:
        call_command("replace_batch", str(cancelled.pk), "--agency=harbour")

    assert refused.value.returncode == 1
    assert run_command("replace_batch", cancelled.pk, "--agency=bluebell")[0] == 0


def test_a_refusal_is_one_line_and_exit_status_1(harbour, run_command):
    cancelled = cancelled_batch(harbour)
    run_command("replace_batch", cancelled.pk)
    refusals = {
        harbour.batch(queued=1).pk: "Only a cancelled batch can be replaced (batch_not_cancelled)",
        cancelled_batch(harbour, completed=1).pk: "The cancel skipped no contact that can be called"
        " (no_contacts_to_replace)",
        uuid.uuid4(): "Batch not found (batch_not_found)",
        cancelled.pk: f"Batch is already replaced by batch {replacement_of(cancelled).pk} (batch_already_replaced)",
    }

    for pk, refusal in refusals.items():
        with pytest.raises(CommandError) as refused:
            call_command("replace_batch", str(pk))
        assert str(refused.value) == f"{pk}: not replaced: {refusal}"
        assert refused.value.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from-number", "nonsense"],
        ["--from-number", "+12125550666"],
        ["--agent-mapping", "nonsense"],
        ["--campaign", "nonsense"],
        ["--calls-per-minute", "61"],
        ["--calls-per-minute", "many"],
        ["--max-concurrent", "0"],
        ["--scheduled-for", "tomorrow"],
        ["--agency", "nowhere"],
    ],
    ids=" ".join,
)
def test_bad_usage_creates_nothing(harbour, arguments):
    cancelled = cancelled_batch(harbour)

    with pytest.raises(CommandError) as bad_usage:
        call_command("replace_batch", str(cancelled.pk), *arguments)

    # call_command() raises the parser's errors, which exit with 2, without their status.
    assert bad_usage.value.returncode == 2 or str(bad_usage.value).startswith("Error: ")
    assert CallBatch.objects.count() == 1


@pytest.mark.parametrize("malformed", ["nonsense", "", "1"])
def test_a_malformed_id_is_bad_usage(malformed):
    with pytest.raises(CommandError, match="is not a batch id"):
        call_command("replace_batch", malformed)


def test_a_caller_id_that_is_no_longer_active_is_refused(harbour):
    cancelled = cancelled_batch(harbour)
    AgencyPhoneNumber.objects.filter(phone_number=CALLER_ID).update(is_active=False)

    with pytest.raises(CommandError, match="from_number must be an active phone number"):
        call_command("replace_batch", str(cancelled.pk))

    assert CallBatch.objects.count() == 1


def test_after_a_database_error_nothing_is_created(harbour, monkeypatch):
    def fail(cancelled, batch):
        raise OperationalError

    cancelled = cancelled_batch(harbour)
    monkeypatch.setattr(CampaignContactQuerySet, "copy_skipped", fail)

    with pytest.raises(CommandError, match=r"not replaced: Failed to create batch \(create_failed\)") as failed:
        call_command("replace_batch", str(cancelled.pk))

    assert failed.value.returncode == 1
    assert CallBatch.objects.count() == 1
