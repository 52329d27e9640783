"""Replacing a cancelled batch in the admin: the form, what it creates, and which requests it refuses."""

import re
from datetime import UTC, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from calls.exceptions import AgentMappingNotFound, BatchCreateFailed, CampaignNotFound
from calls.models import AgencyPhoneNumber, AgentMapping, CallBatch, Campaign
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    BATCHES,
    UNKNOWN_ID,
    hidden_fields,
    messages_at,
    page_of,
    replacement_page_of,
    signed_in,
    text_of,
)
from calls.tests.support.factories import CALLER_ID, batch_snapshot, cancel, count, staff

pytestmark = pytest.mark.django_db

OTHER_NUMBER = "+12125550198"


@pytest.fixture
def cancelled(harbour):
    """A cancelled batch with 3 skipped contacts and one that was called."""
    batch = harbour.batch(queued=3, completed=1)
    CallBatch.objects.filter(pk=batch.pk).update(calls_per_minute=12, max_concurrent=7)
    cancel(batch)
    return batch


def fields_of(tenant, **changes):
    return {
        "agent_mapping_id": tenant.agent.pk,
        "campaign_id": tenant.campaign.pk,
        "from_number": CALLER_ID,
        "calls_per_minute": 12,
        "max_concurrent": 7,
        "scheduled_for": "",
    } | changes


def replacement_of(batch):
    return CallBatch.objects.filter(replaces=batch.pk).first()


# The button and the form


def test_only_the_page_of_a_cancelled_batch_has_the_button(harbour, admin, cancelled):
    button = f'<a class="button" href="{replacement_page_of(cancelled)}">Create a replacement</a>'

    assert button in admin.get(page_of(cancelled)).content.decode()
    for status in set(BatchStatus) - {BatchStatus.CANCELLED}:
        assert "Create a replacement" not in text_of(admin.get(page_of(harbour.batch(status))))


def test_the_form_is_filled_in_with_the_values_of_the_cancelled_batch(harbour, admin, cancelled):
    other = AgentMapping.objects.create(agency=harbour.agency, ultravox_agent_id="other")

    page = admin.get(replacement_page_of(cancelled)).content.decode()

    assert re.findall(r'<option value="([^"]*)" selected>', page) == [
        str(harbour.agent.pk),
        str(harbour.campaign.pk),
        CALLER_ID,
    ]
    assert f'<option value="{other.pk}">' in page
    assert 'name="calls_per_minute" value="12"' in page
    assert 'name="max_concurrent" value="7"' in page


def test_the_form_offers_nothing_of_another_agency(harbour, bluebell, admin, cancelled):
    AgencyPhoneNumber.objects.create(agency=bluebell.agency, phone_number=OTHER_NUMBER)

    page = admin.get(replacement_page_of(cancelled)).content.decode()

    others = (str(bluebell.agent.pk), str(bluebell.campaign.pk), OTHER_NUMBER)
    assert [other for other in others if other in page] == []


def test_a_caller_id_that_is_not_active_any_more_must_be_chosen_again(harbour, admin, cancelled):
    AgencyPhoneNumber.objects.update(is_active=False)
    AgencyPhoneNumber.objects.create(agency=harbour.agency, phone_number=OTHER_NUMBER)

    page = admin.get(replacement_page_of(cancelled)).content.decode()
    response = admin.post(replacement_page_of(cancelled), fields_of(harbour, from_number=""))

    assert f'<option value="{OTHER_NUMBER}">' in page
    assert CALLER_ID not in page
    assert "This field is required." in text_of(response)
    assert replacement_of(cancelled) is None


def test_the_form_changes_nothing(admin, cancelled):
    before = batch_snapshot(cancelled)

    assert admin.get(replacement_page_of(cancelled)).status_code == 200

    assert (replacement_of(cancelled), batch_snapshot(cancelled)) == (None, before)


# What it creates


def test_a_replacement_gets_the_skipped_contacts_and_the_values_of_the_form(harbour, admin, operator, cancelled):
    before = batch_snapshot(cancelled)

    response = admin.post(replacement_page_of(cancelled), fields_of(harbour, calls_per_minute=5))

    created = replacement_of(cancelled)
    assert (response.status_code, response["Location"]) == (302, page_of(created))
    text = f"Created this batch with 3 contacts of batch {cancelled.pk}."
    assert messages_at(admin, page_of(created)) == [("success", text)]
    assert (created.status, created.agent_mapping_id, created.campaign_id, created.from_number) == (
        *(BatchStatus.PENDING, harbour.agent.pk, harbour.campaign.pk, CALLER_ID),
    )
    assert (created.calls_per_minute, created.max_concurrent, created.scheduled_for) == (5, 7, None)
    assert count(created, ContactStatus.PENDING) == created.total_contacts == 3
    assert created.events.get().pgh_context == {
        "actor": {"kind": "staff", "id": str(operator.pk), "label": "operator"},
        "via": "admin",
    }
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.get_change_message()) == (str(created.pk), text)
    assert batch_snapshot(cancelled) == before


def test_another_agent_campaign_and_caller_id_can_be_chosen(harbour, admin, cancelled):
    agent = AgentMapping.objects.create(agency=harbour.agency, ultravox_agent_id="other")
    campaign = Campaign.objects.create(agency=harbour.agency, name="Autumn")
    AgencyPhoneNumber.objects.create(agency=harbour.agency, phone_number=OTHER_NUMBER)
    chosen = {"agent_mapping_id": agent.pk, "campaign_id": campaign.pk, "from_number": OTHER_NUMBER}

    admin.post(replacement_page_of(cancelled), fields_of(harbour, **chosen))

    created = replacement_of(cancelled)
    assert {name: getattr(created, name) for name in chosen} == chosen


def test_a_start_time_is_in_utc(harbour, admin, cancelled):
    tomorrow = timezone.now() + timedelta(days=1)

    admin.post(replacement_page_of(cancelled), fields_of(harbour, scheduled_for=f"{tomorrow:%Y-%m-%dT%H:%M}"))

    created = replacement_of(cancelled)
    assert created.status == BatchStatus.SCHEDULED
    assert created.scheduled_for == tomorrow.astimezone(UTC).replace(second=0, microsecond=0)


def test_a_start_time_in_the_past_means_now(harbour, admin, cancelled):
    admin.post(replacement_page_of(cancelled), fields_of(harbour, scheduled_for="2020-01-01T00:00"))

    assert replacement_of(cancelled).status == BatchStatus.PENDING


def test_the_two_batches_link_to_each_other_and_the_button_is_gone(harbour, admin, cancelled):
    admin.post(replacement_page_of(cancelled), fields_of(harbour))
    created = replacement_of(cancelled)

    old, new = (admin.get(page_of(batch)).content.decode() for batch in (cancelled, created))

    assert f'Replaced by <a href="{page_of(created)}">batch {created.pk}</a>' in old
    assert f'Replaces <a href="{page_of(cancelled)}">batch {cancelled.pk}</a>' in new
    assert "Create a replacement" not in old


# What is refused


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("agent_mapping_id", "", "This field is required."),
        ("agent_mapping_id", UNKNOWN_ID, "Select a valid choice."),
        ("campaign_id", "nonsense", "is not a valid UUID."),
        ("from_number", "+12125550000", "Select a valid choice."),
        ("calls_per_minute", "0", "greater than or equal to 1."),
        ("calls_per_minute", "61", "less than or equal to 60."),
        ("calls_per_minute", "many", "Enter a whole number."),
        ("max_concurrent", "101", "less than or equal to 100."),
        ("scheduled_for", "tomorrow", "Enter a valid date/time."),
        ("scheduled_for", "0000-00-00T00:00", "Enter a valid date/time."),
    ],
)
def test_an_invalid_value_shows_the_form_again_with_an_error(harbour, admin, cancelled, name, value, error):
    response = admin.post(replacement_page_of(cancelled), fields_of(harbour, **{name: value}))

    assert response.status_code == 200
    assert error in text_of(response)
    assert 'name="calls_per_minute"' in response.content.decode()
    assert replacement_of(cancelled) is None


def test_the_operators_values_are_kept_beside_an_error(harbour, admin, cancelled):
    changes = {"calls_per_minute": "61", "max_concurrent": "33", "scheduled_for": "2030-01-31T09:30"}

    page = admin.post(replacement_page_of(cancelled), fields_of(harbour, **changes)).content.decode()

    assert [value for value in changes.values() if f'value="{value}"' not in page] == []


def test_agents_and_campaigns_of_another_agency_are_refused(harbour, bluebell, admin, cancelled):
    fields = fields_of(harbour, agent_mapping_id=bluebell.agent.pk, campaign_id=bluebell.campaign.pk)

    assert text_of(admin.post(replacement_page_of(cancelled), fields)).count("Select a valid choice.") == 2
    assert replacement_of(cancelled) is None


def test_a_caller_id_that_is_deactivated_meanwhile_shows_the_form_again(harbour, admin, cancelled, monkeypatch):
    monkeypatch.setattr("calls.models.batch.AgencyPhoneNumber.objects.is_active", lambda *args: False)

    response = admin.post(replacement_page_of(cancelled), fields_of(harbour))

    assert response.status_code == 200
    assert "from_number must be an active phone number of the agency." in text_of(response)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (AgentMappingNotFound, "Agent mapping not found."),
        (CampaignNotFound, "Campaign not found."),
        (BatchCreateFailed, "Failed to create batch. It is safe to try again."),
        (OperationalError, "Failed to create batch. It is safe to try again."),
    ],
)
def test_a_failure_is_reported_on_the_page_of_the_cancelled_batch(
    harbour, admin, cancelled, monkeypatch, failure, text
):
    def fail(self, new, **kwargs):
        raise failure

    monkeypatch.setattr(CallBatch, "replace", fail)

    response = admin.post(replacement_page_of(cancelled), fields_of(harbour))

    assert (response.status_code, response["Location"]) == (302, page_of(cancelled))
    assert messages_at(admin, page_of(cancelled)) == [("error", text)]


def test_a_batch_that_is_not_cancelled_is_refused(harbour, admin):
    batch = harbour.batch(queued=1)

    admin.post(replacement_page_of(batch), fields_of(harbour))

    assert messages_at(admin, page_of(batch)) == [("error", "Only a cancelled batch can be replaced.")]
    assert replacement_of(batch) is None


@pytest.mark.parametrize("is_replaced", [False, True], ids=["live", "replaced"])
def test_the_form_of_a_batch_that_cannot_be_replaced_leads_back_to_its_page(harbour, admin, cancelled, is_replaced):
    batch = cancelled if is_replaced else harbour.batch(queued=1)
    if is_replaced:
        admin.post(replacement_page_of(cancelled), fields_of(harbour))
        messages_at(admin, page_of(replacement_of(cancelled)))

    response = admin.get(replacement_page_of(batch))

    assert (response.status_code, response["Location"]) == (302, page_of(batch))
    text = "Only a cancelled batch that has not been replaced can be replaced."
    assert messages_at(admin, page_of(batch)) == [("error", text)]


def test_a_second_replacement_is_refused_and_the_first_is_named(harbour, admin, cancelled):
    admin.post(replacement_page_of(cancelled), fields_of(harbour))
    created = replacement_of(cancelled)
    messages_at(admin, page_of(created))

    response = admin.post(replacement_page_of(cancelled), fields_of(harbour))

    assert messages_at(admin, response["Location"]) == [("error", f"Batch is already replaced by batch {created.pk}.")]
    assert CallBatch.objects.count() == 2


def test_a_batch_without_skipped_contacts_is_refused(harbour, admin):
    batch = harbour.batch(completed=2)
    cancel(batch)

    response = admin.post(replacement_page_of(batch), fields_of(harbour))

    assert messages_at(admin, response["Location"]) == [("error", "The cancel skipped no contact that can be called.")]
    assert CallBatch.objects.count() == 1


@pytest.mark.parametrize(
    "permissions", [["view_callbatch"], ["view_callbatch", "cancel_callbatch"], ["replace_callbatch"]], ids=str
)
def test_replacing_needs_its_own_permission(harbour, cancelled, permissions):
    client = signed_in(staff("employee", *permissions))

    assert client.get(replacement_page_of(cancelled)).status_code == 403
    assert client.post(replacement_page_of(cancelled), fields_of(harbour)).status_code == 403
    assert replacement_of(cancelled) is None
    if "view_callbatch" in permissions:
        assert "Create a replacement" not in text_of(client.get(page_of(cancelled)))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_only_a_post_changes_anything(admin, cancelled, method):
    response = admin.generic(method, replacement_page_of(cancelled))

    assert response.status_code == (200 if method in ("GET", "HEAD") else 405)
    assert replacement_of(cancelled) is None


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_batch_is_not_found(admin, method):
    assert admin.generic(method, f"{BATCHES}{UNKNOWN_ID}/replace/").status_code == 404


def test_a_request_from_another_site_is_refused_and_one_from_the_page_is_accepted(harbour, operator, cancelled):
    client = Client(enforce_csrf_checks=True, headers={"Origin": "https://testserver"})
    client.force_login(operator)
    fields = fields_of(harbour) | hidden_fields(client.get(replacement_page_of(cancelled), secure=True))

    assert client.post(replacement_page_of(cancelled), fields_of(harbour), secure=True).status_code == 403
    assert replacement_of(cancelled) is None

    assert client.post(replacement_page_of(cancelled), fields, secure=True).status_code == 302
    assert replacement_of(cancelled) is not None
