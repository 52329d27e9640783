"""POST /functions/v1/calls-batch-create with ``replaces``: its fields, its answers, and calls-batch-get afterwards."""

import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from calls.models import AgencyPhoneNumber, AgentMapping, CallBatch, Campaign, CampaignContact
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import BatchStatus
from calls.tests.support.dialling import change
from calls.tests.support.factories import CALLER_ID, FUNCTIONS, call, cancel, checked_counters, client_of
from calls.tests.support.functions import latest_context
from calls.tests.support.replacements import cancelled_batch

pytestmark = pytest.mark.django_db

KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
OTHER_NUMBER = "+12125550177"


@pytest.fixture
def cancelled(harbour):
    """A cancelled batch with three contacts that the cancel skipped and one that had been called."""
    return change(cancelled_batch(harbour, queued=3, completed=1), calls_per_minute=7, max_concurrent=3)


@pytest.fixture
def replace(create, cancelled):
    """Replace ``cancelled``, with these fields. Returns the status and the JSON of the answer."""
    return lambda **fields: create({"replaces": str(cancelled.pk)} | fields)


def stored():
    """Return the batches and contacts, to compare before and after."""
    return list(CallBatch.objects.order_by("pk").values()), list(CampaignContact.objects.order_by("pk").values())


def get(client, batch_id):
    return client.get(f"{FUNCTIONS}get", {"batch_id": str(batch_id)}).json()["batch"]


def test_a_replacement_is_created_with_the_values_of_the_cancelled_batch(harbour, cancelled, replace):
    harbour.agent.ultravox_agent_name = "Robin"
    harbour.agent.save()

    status, answer = replace()

    batch = CallBatch.objects.get(replaces=cancelled)
    assert status == 201
    assert answer == {
        "batch_id": str(batch.pk),
        "status": "pending",
        "total_contacts": 3,
        "duplicates_removed": 0,
        "agent_mapping_id": str(harbour.agent.pk),
        "agent_name": "Robin",
        "campaign_id": str(harbour.campaign.pk),
        "from_number": CALLER_ID,
        "calls_per_minute": 7,
        "max_concurrent": 3,
        "scheduled_for": None,
        "mode": "immediate",
        "created_at": batch.created_at.isoformat().replace("+00:00", "Z"),
        "replaces": str(cancelled.pk),
    }
    assert checked_counters(batch) == {"total_contacts": 3, "queued": 3}


def test_the_answer_to_any_other_create_has_no_key_replaces(harbour, create):
    assert "replaces" not in create(harbour.create_body(replaces=None))[1]


def test_every_value_can_be_replaced(harbour, replace):
    agent = AgentMapping.objects.create(agency=harbour.agency, ultravox_agent_id="another")
    campaign = Campaign.objects.create(agency=harbour.agency, name="Autumn")
    AgencyPhoneNumber.objects.create(agency=harbour.agency, phone_number=OTHER_NUMBER)
    values = {
        "agent_mapping_id": str(agent.pk),
        "campaign_id": str(campaign.pk),
        "from_number": OTHER_NUMBER,
        "calls_per_minute": 60,
        "max_concurrent": 100,
    }

    status, answer = replace(**values)

    assert status == 201
    assert {name: answer[name] for name in values} == values
    assert set(CallBatch.objects.get(pk=answer["batch_id"]).contacts.values_list("campaign", flat=True)) == {
        campaign.pk
    }


def test_null_values_count_as_absent_and_unknown_keys_are_ignored(replace):
    names = ("agent_mapping_id", "campaign_id", "from_number", "calls_per_minute", "max_concurrent", "contacts")

    status, answer = replace(**dict.fromkeys(names), mode=None, scheduled_for=None, status="completed")

    assert (status, answer["status"], answer["calls_per_minute"]) == (201, "pending", 7)


def test_a_replacement_can_be_scheduled(replace):
    ahead = (timezone.now() + timedelta(hours=1)).replace(microsecond=0)

    status, answer = replace(scheduled_for=ahead.isoformat())

    assert (status, answer["status"], answer["mode"]) == (201, "scheduled", "scheduled")
    assert answer["scheduled_for"] == ahead.isoformat().replace("+00:00", "Z")


def test_a_replacement_of_a_scheduled_batch_starts_at_once(harbour, create):
    batch = change(harbour.batch(BatchStatus.SCHEDULED, scheduled=1), scheduled_for="2099-01-01T00:00Z")
    change(batch, mode="scheduled")
    cancel(batch)

    _, answer = create({"replaces": str(batch.pk)})

    assert (answer["status"], answer["mode"], answer["scheduled_for"]) == ("pending", "immediate", None)


def test_get_shows_what_a_batch_replaces_and_what_replaces_it(owner, cancelled, replace):
    assert (get(owner, cancelled.pk)["replaces"], get(owner, cancelled.pk)["replaced_by"]) == (None, None)

    new = replace()[1]["batch_id"]

    assert (get(owner, cancelled.pk)["replaces"], get(owner, cancelled.pk)["replaced_by"]) == (None, new)
    assert (get(owner, new)["replaces"], get(owner, new)["replaced_by"]) == (str(cancelled.pk), None)


def test_list_does_not_show_replacements(owner, replace):
    replace()

    for batch in owner.get(f"{FUNCTIONS}list").json()["batches"]:
        assert not {"replaces", "replaced_by"} & set(batch)


def test_the_history_names_the_user_who_replaced_the_batch(harbour, replace):
    batch = CallBatch.objects.get(pk=replace()[1]["batch_id"])

    context = latest_context(batch)
    assert (context["via"], context["actor"]["label"]) == ("api", harbour.owner.email)


@pytest.mark.parametrize("contacts", [[{"phone_number": "+12125550100"}], [], "text", 5, {}])
def test_contacts_together_with_replaces_are_refused(replace, contacts):
    before = stored()

    assert replace(contacts=contacts) == (
        400,
        {"error": "contacts must be absent when replaces is given", "code": "contacts_invalid"},
    )
    assert stored() == before


@pytest.mark.parametrize("value", [7, True, [], {}, "nonsense", "01985f2c7a3e7c1d9b542f6f0c9d1e10"], ids=repr)
def test_an_id_that_is_not_a_uuid_is_refused(create, value):
    assert create({"replaces": value}) == (
        400,
        {"error": "replaces must be a valid UUID", "code": "replaces_invalid"},
    )


def test_an_empty_id_is_refused(create):
    assert create({"replaces": ""}) == (400, {"error": "replaces is required", "code": "replaces_required"})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("agent_mapping_id", [7, "nonsense"]),
        ("campaign_id", [7, "nonsense"]),
        ("from_number", [7, "nonsense"]),
        ("calls_per_minute", [0, 61, "30", True]),
        ("max_concurrent", [0, 101, 1.5]),
        ("scheduled_for", ["tomorrow", "2099-01-01T00:00:00"]),
        ("mode", ["now", "scheduled"]),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(replace, field, values):
    before = stored()

    for value in values:
        status, answer = replace(**{field: value})
        assert (status, answer["code"]) == (400, f"{field}_invalid"), value
    assert stored() == before


def test_an_unknown_batch_and_one_of_another_agency_are_not_found(bluebell, create):
    other = cancelled_batch(bluebell)
    before = stored()

    answers = [create({"replaces": str(pk)}) for pk in (other.pk, uuid.uuid4())]

    assert answers == [(404, {"error": "Batch not found", "code": "batch_not_found"})] * 2
    assert stored() == before


def test_a_batch_that_is_not_cancelled_is_refused_with_its_status(harbour, create):
    batch = harbour.batch(queued=1)

    assert create({"replaces": str(batch.pk)}) == (
        400,
        {
            "error": "Only a cancelled batch can be replaced",
            "code": "batch_not_cancelled",
            "batch_id": str(batch.pk),
            "status": "processing",
            "completed_at": None,
        },
    )


def test_a_batch_that_was_replaced_before_is_refused_with_the_id_of_its_replacement(replace):
    new = replace()[1]["batch_id"]
    before = stored()

    assert replace() == (
        409,
        {
            "error": f"Batch is already replaced by batch {new}",
            "code": "batch_already_replaced",
            "batch_id": new,
        },
    )
    assert stored() == before


def test_a_batch_without_contacts_to_copy_is_refused_and_nothing_is_stored(harbour, create):
    batch = cancelled_batch(harbour, completed=1)
    before = stored()

    assert create({"replaces": str(batch.pk)}) == (
        400,
        {"error": "The cancel skipped no contact that can be called", "code": "no_contacts_to_replace"},
    )
    assert stored() == before


def test_a_caller_id_that_is_no_longer_active_is_refused_until_another_is_given(harbour, replace):
    AgencyPhoneNumber.objects.filter(phone_number=CALLER_ID).update(is_active=False)
    AgencyPhoneNumber.objects.create(agency=harbour.agency, phone_number=OTHER_NUMBER)
    before = stored()

    assert replace() == (
        400,
        {"error": "from_number must be an active phone number of the agency", "code": "from_number_invalid"},
    )
    assert stored() == before
    assert replace(from_number=OTHER_NUMBER)[0] == 201


@pytest.mark.parametrize(("field", "what"), [("agent_mapping_id", "agent"), ("campaign_id", "campaign")])
def test_an_agent_or_campaign_of_another_agency_is_not_found(bluebell, replace, field, what):
    before = stored()

    status, answer = replace(**{field: str(getattr(bluebell, what).pk)})

    assert (status, answer["code"]) == (404, f"{field.removesuffix('_id')}_not_found")
    assert stored() == before


# On an adopted database the foreign key is checked at once, here at the end of the test.
@pytest.mark.not_adopted
def test_an_agent_that_was_deleted_is_not_found_until_another_is_given(harbour, cancelled, replace):
    change(cancelled, agent_mapping=uuid.uuid4())
    before = stored()

    assert replace() == (404, {"error": "Agent mapping not found", "code": "agent_mapping_not_found"})
    assert stored() == before
    assert replace(agent_mapping_id=str(harbour.agent.pk))[0] == 201
    change(cancelled, agent_mapping=harbour.agent)


def test_after_a_database_error_nothing_is_stored(replace, monkeypatch):
    def fail(cancelled, batch):
        raise OperationalError

    before = stored()
    monkeypatch.setattr(CampaignContactQuerySet, "copy_skipped", fail)

    assert replace() == (500, {"error": "Failed to create batch", "code": "create_failed"})
    assert stored() == before


@pytest.mark.not_adopted
@pytest.mark.parametrize(
    "stricter", ["ADD UNIQUE (campaign_id, phone_number)", "ADD CHECK (custom_data <> '{}') NOT VALID"]
)
def test_a_contact_that_a_stricter_table_refuses_is_answered_as_for_any_create(harbour, create, stricter):
    cancelled = cancelled_batch(harbour, queued=2)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"ALTER TABLE campaign_contacts {stricter}")
    before = stored()

    assert create({"replaces": str(cancelled.pk)}) == (
        400,
        {"error": "contacts have a value that a constraint of the table refuses", "code": "contacts_invalid"},
    )
    assert stored() == before


def test_a_repeated_request_with_a_key_gets_the_first_answer(owner, cancelled):
    answers = [call(owner, "create", {"replaces": str(cancelled.pk)}, **KEY) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert CallBatch.objects.count() == 2


def test_another_body_with_the_same_key_is_refused(owner, cancelled):
    call(owner, "create", {"replaces": str(cancelled.pk)}, **KEY)

    again = call(owner, "create", {"replaces": str(cancelled.pk), "max_concurrent": 9}, **KEY)

    assert (again.status_code, again.json()["code"]) == (422, "idempotency_key_reused")


def test_a_refused_replacement_leaves_the_key_unused(harbour, owner):
    batch = harbour.batch(queued=1)
    assert call(owner, "create", {"replaces": str(batch.pk)}, **KEY).status_code == 400
    cancel(batch)

    assert call(owner, "create", {"replaces": str(batch.pk)}, **KEY).status_code == 201


def test_a_replacement_does_not_block_that_of_another_agency(bluebell, replace):
    replace()

    other = cancelled_batch(bluebell)

    assert call(client_of(bluebell.owner), "create", {"replaces": str(other.pk)}).status_code == 201
