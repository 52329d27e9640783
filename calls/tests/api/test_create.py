"""POST /functions/v1/calls-batch-create: the fields of the batch, its schedule, and refused requests."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from calls.models import AgencyPhoneNumber, CallBatch, CampaignContact
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, FUNCTIONS, PHONE, call
from calls.tests.support.new_batches import INVALID_PHONE_NUMBERS, nothing_is_stored

pytestmark = pytest.mark.django_db


def in_an_hour():
    return (timezone.now() + timedelta(hours=1)).replace(microsecond=0)


def test_a_batch_is_created_and_returned(harbour, create):
    harbour.agent.ultravox_agent_name = "Robin"
    harbour.agent.save()

    status, answer = create(harbour.create_body("+12125550100", "+442079460000", "+12125550100"))

    batch = CallBatch.objects.get()
    assert status == 201
    assert answer == {
        "batch_id": str(batch.pk),
        "status": "pending",
        "total_contacts": 2,
        "duplicates_removed": 1,
        "agent_mapping_id": str(harbour.agent.pk),
        "agent_name": "Robin",
        "campaign_id": str(harbour.campaign.pk),
        "from_number": CALLER_ID,
        "calls_per_minute": 30,
        "max_concurrent": 10,
        "scheduled_for": None,
        "mode": "immediate",
        "created_at": batch.created_at.isoformat().replace("+00:00", "Z"),
    }
    assert (batch.agency, batch.total_contacts, batch.queued) == (harbour.agency, 2, 2)


def test_null_values_count_as_absent_and_unknown_keys_are_ignored(harbour, create):
    names = ("first_name", "last_name", "email", "company", "title", "timezone", "custom_data", "max_attempts")
    contact = {"phone_number": PHONE, "id": 7, "status": "completed", **dict.fromkeys(names)}
    optional = dict.fromkeys(("calls_per_minute", "max_concurrent", "scheduled_for", "mode"))

    status, answer = create(harbour.create_body(contacts=[contact], agency_id="mine", status="completed", **optional))

    assert (status, answer["status"], answer["calls_per_minute"]) == (201, "pending", 30)
    contact = CampaignContact.objects.get()
    assert (contact.first_name, contact.custom_data, contact.max_attempts, contact.status) == ("", {}, 3, "pending")


def test_the_history_names_the_user_who_created_the_batch(harbour, create):
    create(harbour.create_body())

    (event,) = CallBatch.objects.get().events.all()
    assert event.pgh_label == "created"
    assert event.pgh_context["actor"]["label"] == harbour.owner.email
    assert event.pgh_context["via"] == "api"


def test_a_create_is_logged_without_phone_numbers(harbour, create, caplog, django_capture_on_commit_callbacks):
    caplog.set_level("INFO", "calls")

    with django_capture_on_commit_callbacks(execute=True):
        create(harbour.create_body("+12125550100", "+12125550101"))

    (line,) = caplog.messages
    assert line.startswith(f"create batch={CallBatch.objects.get().pk} agency={harbour.agency.pk} source=api")
    assert "outcome=pending contacts=2 ms=" in line
    assert "+1212" not in line


@pytest.mark.parametrize("mode", [None, "scheduled"])
def test_a_batch_with_a_future_time_is_scheduled(harbour, create, mode):
    ahead = in_an_hour()

    status, answer = create(harbour.create_body(scheduled_for=ahead.isoformat(), mode=mode))

    assert (status, answer["status"], answer["mode"]) == (201, "scheduled", "scheduled")
    assert answer["scheduled_for"] == ahead.isoformat().replace("+00:00", "Z")


def test_the_scheduled_time_is_converted_to_utc(harbour, create):
    _, answer = create(harbour.create_body(scheduled_for="2099-12-31T23:30:00.5-05:30"))

    assert answer["scheduled_for"] == "2100-01-01T05:00:00.500000Z"


@pytest.mark.parametrize("mode", [None, "immediate", "scheduled"])
@pytest.mark.parametrize("past", ["2020-01-01T00:00:00Z", "1000-01-01T00:00:00+01:00"])
def test_a_time_in_the_past_means_now(harbour, create, past, mode):
    status, answer = create(harbour.create_body(scheduled_for=past, mode=mode))

    assert (status, answer["status"], answer["mode"]) == (201, "pending", mode or "immediate")


@pytest.mark.parametrize(
    "time",
    [
        *("2099-01-01T00:00:00", "2099-01-01", "tomorrow", "", 4070908800, [], True),
        *("2099-01-01\ud80009:00:00+00:00", "2099-01-01x09:00:00+00:00"),
    ],
)
def test_an_invalid_time_and_one_without_an_offset_are_refused(harbour, create, time):
    status, answer = create(harbour.create_body(scheduled_for=time))

    assert (status, answer["code"]) == (400, "scheduled_for_invalid")
    assert "2026-01-31T09:30:00Z" in answer["error"]
    assert nothing_is_stored()


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_out_of_range_in_utc_is_refused(harbour, create, time):
    assert create(harbour.create_body(scheduled_for=time))[1]["code"] == "scheduled_for_invalid"


@pytest.mark.parametrize(("mode", "time"), [("immediate", "2099-01-01T00:00:00Z"), ("scheduled", None)])
def test_a_mode_that_contradicts_the_time_is_refused(harbour, create, mode, time):
    status, answer = create(harbour.create_body(mode=mode, scheduled_for=time))

    assert (status, answer["code"]) == (400, "mode_invalid")
    assert nothing_is_stored()


@pytest.mark.parametrize("body", [None, [], "text", 5, True])
def test_a_body_that_is_not_an_object_is_refused(create, body):
    assert create(body) == (400, {"error": "body must be a JSON object", "code": "body_invalid"})


@pytest.mark.parametrize("content", [b"{", b"nonsense", b"\xff", b'{"contacts": NaN}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(owner, content):
    response = owner.generic("POST", f"{FUNCTIONS}create", content)

    assert (response.status_code, response.json()["code"]) == (400, "body_invalid")


@pytest.mark.parametrize("field", ["agent_mapping_id", "campaign_id", "from_number", "contacts"])
def test_a_missing_field_is_refused_by_name(harbour, create, field):
    refusal = {"error": f"{field} is required", "code": f"{field}_required"}

    assert create(harbour.create_body(**{field: None})) == (400, refusal)
    body = harbour.create_body()
    del body[field]
    assert create(body) == (400, refusal)
    assert nothing_is_stored()


@pytest.mark.parametrize("field", ["agent_mapping_id", "campaign_id", "from_number"])
def test_an_empty_string_counts_as_missing(harbour, create, field):
    assert create(harbour.create_body(**{field: ""}))[1]["code"] == f"{field}_required"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("agent_mapping_id", [7, True, [], {}, "nonsense", "01985f2c7a3e7c1d9b542f6f0c9d1e10"]),
        ("campaign_id", [7, True, [], {}, "nonsense", "{01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10}"]),
        ("from_number", [7, True, [], {}, *INVALID_PHONE_NUMBERS]),
        ("calls_per_minute", [0, 61, -1, 1.5, 30.0, "30", True, [], 10**30]),
        ("max_concurrent", [0, 101, -1, 1.5, "30", True, {}]),
        ("mode", ["now", 1, [], "", "\ud800"]),
        ("contacts", [[], {}, "text", 5]),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(harbour, create, field, values):
    for value in values:
        status, answer = create(harbour.create_body(**{field: value}))
        assert (status, answer["code"]) == (400, f"{field}_invalid"), value
        assert answer["error"].startswith(f"{field} ")
    assert nothing_is_stored()


def test_a_body_of_more_than_16_mb_is_refused(harbour, owner):
    content = json.dumps(harbour.create_body()).encode()
    longest = content + b" " * (16 * 1024 * 1024 - len(content))

    taken = owner.generic("POST", f"{FUNCTIONS}create", longest)
    refused = owner.generic("POST", f"{FUNCTIONS}create", longest + b" ")

    assert taken.status_code == 201
    assert refused.status_code == 413
    assert refused.json() == {"error": "Request body too large: at most 16 MB", "code": "body_too_large"}


@pytest.mark.parametrize(("field", "what"), [("agent_mapping_id", "agent"), ("campaign_id", "campaign")])
def test_an_agent_or_campaign_of_another_agency_is_not_found(harbour, bluebell, create, field, what):
    others = create(harbour.create_body(**{field: str(getattr(bluebell, what).pk)}))
    unknown = create(harbour.create_body(**{field: str(uuid.uuid4())}))

    assert others == unknown
    assert (others[0], others[1]["code"]) == (404, f"{field.removesuffix('_id')}_not_found")
    assert nothing_is_stored()


@pytest.mark.parametrize("change", [{"is_active": False}, {"status": "suspended"}, {"phone_number": "+12125550198"}])
def test_from_number_must_be_an_active_number_of_the_agency(harbour, bluebell, create, change):
    AgencyPhoneNumber.objects.filter(agency=harbour.agency).update(**change)

    status, answer = create(harbour.create_body())

    assert (status, answer["code"]) == (400, "from_number_invalid")
    assert answer["error"] == "from_number must be an active phone number of the agency"
    assert nothing_is_stored()


def test_after_a_database_error_nothing_is_stored(harbour, create, monkeypatch):
    def fails(self, batch, contacts):
        raise OperationalError

    monkeypatch.setattr(CampaignContactQuerySet, "bulk_insert", fails)

    assert create(harbour.create_body()) == (500, {"error": "Failed to create batch", "code": "create_failed"})
    assert nothing_is_stored()


def test_a_created_batch_can_be_cancelled(harbour, create, owner):
    _, answer = create(harbour.create_body("+12125550100", "+12125550101"))

    assert call(owner, "cancel", {"batch_id": answer["batch_id"]}).json()["contacts_skipped"] == 2
    batch = CallBatch.objects.get()
    assert batch.status == BatchStatus.CANCELLED
    assert set(batch.contacts.values_list("status", flat=True)) == {ContactStatus.SKIPPED}


def test_a_batch_and_its_contacts_have_the_time_of_the_request(harbour, create):
    before = datetime.now(UTC)

    create(harbour.create_body())

    batch, contact = CallBatch.objects.get(), CampaignContact.objects.get()
    assert abs(batch.created_at - before) < timedelta(seconds=10)
    assert abs(contact.created_at - batch.created_at) < timedelta(seconds=10)
