"""POST /functions/v1/calls-batch-create: all of a list, or nothing of it, and a word for what is wrong with it."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.models import AgencyPhoneNumber, CallBatch, CampaignContact
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, FUNCTIONS, PHONE, call

pytestmark = pytest.mark.django_db

REFUSED_NUMBERS = [
    *("12125550100", "+1 212 555 0100", " +12125550100", "+12125550100 ", "+12125550100\n", "+0125550100", "+123456"),
    *("+1234567890123456", "+1212555O100", "+\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668", "tel:+12125550100"),
]


@pytest.fixture
def create(owner):
    """Ask for a batch as Harbour's owner: the status of the answer and its JSON."""

    def create(body, **headers):
        response = call(owner, "create", body, **headers)
        assert response["Content-Type"] == "application/json"
        return response.status_code, response.json()

    return create


def nothing_is_stored():
    return not CallBatch.objects.exists() and not CampaignContact.objects.exists()


def in_an_hour():
    return (timezone.now() + timedelta(hours=1)).replace(microsecond=0)


# What is right


def test_a_batch_is_created_and_described(harbour, create):
    harbour.agent.ultravox_agent_name = "Robin"
    harbour.agent.save()

    status, answer = create(harbour.wanted("+12125550100", "+442079460000", "+12125550100"))

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


def test_every_field_of_a_contact_is_stored_as_it_was_sent(harbour, create):
    sent = {
        "phone_number": "+12125550100",
        "first_name": "Zo\u00eb \U0001f469\u200d\U0001f680",
        "last_name": "O'Brien; DROP\tTABLE\n\\N",
        "email": "zoe@example.com",
        "company": "",
        "title": " Dr. ",
        "timezone": "America/New_York",
        "custom_data": {"policy": "A-17", "tags": ["a", {"b": None}], "n": 1.5, "literal": "\\u0000"},
        "max_attempts": 10,
    }

    status, _ = create(harbour.wanted(contacts=[sent]))

    assert status == 201
    contact = CampaignContact.objects.get()
    assert {name: getattr(contact, name) for name in sent} == sent
    assert (contact.agency, contact.campaign, contact.status) == (harbour.agency, harbour.campaign, "pending")
    assert (contact.attempts, contact.do_not_call, contact.created_at) == (0, False, contact.updated_at)


def test_what_is_null_counts_as_not_given_and_unknown_keys_are_ignored(harbour, create):
    names = ("first_name", "last_name", "email", "company", "title", "timezone", "custom_data", "max_attempts")
    contact = {"phone_number": PHONE, "id": 7, "status": "completed", **dict.fromkeys(names)}
    optional = dict.fromkeys(("calls_per_minute", "max_concurrent", "scheduled_for", "mode"))

    status, answer = create(harbour.wanted(contacts=[contact], agency_id="mine", status="completed", **optional))

    assert (status, answer["status"], answer["calls_per_minute"]) == (201, "pending", 30)
    contact = CampaignContact.objects.get()
    assert (contact.first_name, contact.custom_data, contact.max_attempts, contact.status) == ("", {}, 3, "pending")


def test_contacts_keep_their_order_and_of_those_with_one_number_the_first_stays(harbour, create):
    numbers = [f"+1212555{index:04d}" for index in range(300)]
    contacts = [{"phone_number": number, "first_name": "first"} for number in numbers]

    _, answer = create(harbour.wanted(contacts=[*contacts, {"phone_number": numbers[7], "first_name": "second"}]))

    stored = CampaignContact.objects.oldest_first()
    assert [contact.phone_number for contact in stored] == numbers
    assert {contact.first_name for contact in stored} == {"first"}
    assert (answer["total_contacts"], answer["duplicates_removed"]) == (300, 1)


def test_ten_thousand_contacts_are_stored_with_as_many_statements_as_one(harbour, create):
    def statements(body):
        with CaptureQueriesContext(connection) as queries:
            assert create(body)[0] == 201
        return [query["sql"].split()[0] for query in queries]

    one = statements(harbour.wanted())
    many = statements(harbour.wanted(*(f"+1212{index:07d}" for index in range(10_000))))

    assert one == many
    assert one.count("COPY") == 1
    assert CallBatch.objects.first().contacts.count() in (1, 10_000)
    assert CampaignContact.objects.count() == 10_001


def test_the_history_says_who_created_it(harbour, create):
    create(harbour.wanted())

    (event,) = CallBatch.objects.get().events.all()
    assert event.pgh_label == "created"
    assert event.pgh_context["actor"]["label"] == harbour.owner.email
    assert event.pgh_context["via"] == "api"


def test_the_log_says_so_without_a_number(harbour, create, caplog, django_capture_on_commit_callbacks):
    caplog.set_level("INFO", "calls")

    with django_capture_on_commit_callbacks(execute=True):
        create(harbour.wanted("+12125550100", "+12125550101"))

    (line,) = caplog.messages
    assert line.startswith(f"create batch={CallBatch.objects.get().pk} agency={harbour.agency.pk} source=api")
    assert "outcome=pending contacts=2 ms=" in line
    assert "+1212" not in line


# When


@pytest.mark.parametrize("mode", [None, "scheduled"])
def test_a_time_ahead_makes_it_scheduled(harbour, create, mode):
    ahead = in_an_hour()

    status, answer = create(harbour.wanted(scheduled_for=ahead.isoformat(), mode=mode))

    assert (status, answer["status"], answer["mode"]) == (201, "scheduled", "scheduled")
    assert answer["scheduled_for"] == ahead.isoformat().replace("+00:00", "Z")


def test_an_offset_is_taken_into_account(harbour, create):
    _, answer = create(harbour.wanted(scheduled_for="2099-12-31T23:30:00.5-05:30"))

    assert answer["scheduled_for"] == "2100-01-01T05:00:00.500000Z"


@pytest.mark.parametrize("mode", [None, "immediate", "scheduled"])
@pytest.mark.parametrize("past", ["2020-01-01T00:00:00Z", "1000-01-01T00:00:00+01:00"])
def test_a_time_in_the_past_means_now(harbour, create, past, mode):
    status, answer = create(harbour.wanted(scheduled_for=past, mode=mode))

    assert (status, answer["status"], answer["mode"]) == (201, "pending", mode or "immediate")


@pytest.mark.parametrize(
    "time",
    [
        *("2099-01-01T00:00:00", "2099-01-01", "tomorrow", "", 4070908800, [], True),
        *("2099-01-01\ud80009:00:00+00:00", "2099-01-01x09:00:00+00:00"),
    ],
)
def test_a_time_without_an_offset_or_that_is_none_is_refused(harbour, create, time):
    status, answer = create(harbour.wanted(scheduled_for=time))

    assert (status, answer["code"]) == (400, "scheduled_for_invalid")
    assert "2026-01-31T09:30:00Z" in answer["error"]
    assert nothing_is_stored()


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_no_calendar_has_is_refused(harbour, create, time):
    assert create(harbour.wanted(scheduled_for=time))[1]["code"] == "scheduled_for_invalid"


@pytest.mark.parametrize(("mode", "time"), [("immediate", "2099-01-01T00:00:00Z"), ("scheduled", None)])
def test_a_mode_that_contradicts_the_time_is_refused(harbour, create, mode, time):
    status, answer = create(harbour.wanted(mode=mode, scheduled_for=time))

    assert (status, answer["code"]) == (400, "mode_invalid")
    assert nothing_is_stored()


# What is wrong with the whole


@pytest.mark.parametrize("body", [None, [], "text", 5, True])
def test_a_body_that_is_no_object_is_refused(create, body):
    assert create(body) == (400, {"error": "body must be a JSON object", "code": "body_invalid"})


@pytest.mark.parametrize("content", [b"{", b"nonsense", b"\xff", b'{"contacts": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(owner, content):
    response = owner.generic("POST", f"{FUNCTIONS}create", content)

    assert (response.status_code, response.json()["code"]) == (400, "body_invalid")


@pytest.mark.parametrize("field", ["agent_mapping_id", "campaign_id", "from_number", "contacts"])
def test_what_must_be_given_is_named(harbour, create, field):
    refusal = {"error": f"{field} is required", "code": f"{field}_required"}

    assert create(harbour.wanted(**{field: None})) == (400, refusal)
    body = harbour.wanted()
    del body[field]
    assert create(body) == (400, refusal)
    assert nothing_is_stored()


@pytest.mark.parametrize("field", ["agent_mapping_id", "campaign_id", "from_number"])
def test_an_empty_text_counts_as_not_given(harbour, create, field):
    assert create(harbour.wanted(**{field: ""}))[1]["code"] == f"{field}_required"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("agent_mapping_id", [7, True, [], {}, "nonsense", "01985f2c7a3e7c1d9b542f6f0c9d1e10"]),
        ("campaign_id", [7, True, [], {}, "nonsense", "{01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10}"]),
        ("from_number", [7, True, [], {}, *REFUSED_NUMBERS]),
        ("calls_per_minute", [0, 61, -1, 1.5, 30.0, "30", True, [], 10**30]),
        ("max_concurrent", [0, 101, -1, 1.5, "30", True, {}]),
        ("mode", ["now", 1, [], "", "\ud800"]),
        ("contacts", [[], {}, "text", 5]),
    ],
)
def test_a_value_that_cannot_be_taken_is_named(harbour, create, field, values):
    for value in values:
        status, answer = create(harbour.wanted(**{field: value}))
        assert (status, answer["code"]) == (400, f"{field}_invalid"), value
        assert answer["error"].startswith(f"{field} ")
    assert nothing_is_stored()


def test_ten_thousand_and_one_contacts_are_refused(harbour, create):
    status, answer = create(harbour.wanted(*[PHONE] * 10_001))

    assert (status, answer["code"]) == (400, "contacts_invalid")
    assert answer["error"] == "contacts must have at most 10,000 contacts"


def test_a_body_of_more_than_16_mb_is_refused_and_the_limit_named(harbour, owner):
    content = json.dumps(harbour.wanted()).encode()
    longest = content + b" " * (16 * 1024 * 1024 - len(content))

    taken = owner.generic("POST", f"{FUNCTIONS}create", longest)
    refused = owner.generic("POST", f"{FUNCTIONS}create", longest + b" ")

    assert taken.status_code == 201
    assert refused.status_code == 413
    assert refused.json() == {"error": "Request body too large: at most 16 MB", "code": "body_too_large"}


# What is another's, or is not there


@pytest.mark.parametrize(("field", "what"), [("agent_mapping_id", "agent"), ("campaign_id", "campaign")])
def test_what_belongs_to_another_agency_is_not_found(harbour, bluebell, create, field, what):
    others = create(harbour.wanted(**{field: str(getattr(bluebell, what).pk)}))
    unknown = create(harbour.wanted(**{field: str(uuid.uuid4())}))

    assert others == unknown
    assert (others[0], others[1]["code"]) == (404, f"{field.removesuffix('_id')}_not_found")
    assert nothing_is_stored()


@pytest.mark.parametrize("change", [{"is_active": False}, {"status": "suspended"}, {"phone_number": "+12125550198"}])
def test_the_number_to_call_from_must_be_an_active_one_of_the_agency(harbour, bluebell, create, change):
    AgencyPhoneNumber.objects.filter(agency=harbour.agency).update(**change)

    status, answer = create(harbour.wanted())

    assert (status, answer["code"]) == (400, "from_number_invalid")
    assert answer["error"] == "from_number must be an active phone number of the agency"
    assert nothing_is_stored()


# What is wrong with a contact


def test_one_invalid_contact_among_ten_thousand_is_named_and_nothing_is_stored(harbour, create):
    numbers = [f"+1212{index:07d}" for index in range(10_000)]
    numbers[7000] = "212 555 0100"

    status, answer = create(harbour.wanted(*numbers))

    assert status == 400
    assert answer == {
        "error": "1 of 10000 contacts is invalid; nothing was stored",
        "code": "contacts_invalid",
        "invalid_contacts": [
            {
                "index": 7000,
                "reason": "phone_number must be in E.164: a plus sign, then 7 to 15 digits and nothing else",
            }
        ],
    }
    assert nothing_is_stored()


def test_of_many_invalid_contacts_the_first_20_are_named_each_once(harbour, create):
    contact = {"phone_number": "nonsense", "first_name": 7}

    status, answer = create(harbour.wanted(contacts=[{"phone_number": PHONE}, *[contact] * 99]))

    assert (status, answer["error"]) == (400, "99 of 100 contacts are invalid; nothing was stored")
    assert [invalid["index"] for invalid in answer["invalid_contacts"]] == list(range(1, 21))
    assert all(invalid["reason"].startswith("phone_number ") for invalid in answer["invalid_contacts"])


def nested(levels):
    return {"a": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("contact", "reason"),
    [
        (None, "must be an object"),
        (PHONE, "must be an object"),
        ([PHONE], "must be an object"),
        ({"phone_number": None}, "phone_number is required"),
        ({"phone_number": ""}, "phone_number is required"),
        ({"phone_number": 12125550100}, "phone_number must be a string"),
        ({"first_name": 7}, "first_name must be a string"),
        ({"last_name": ["x"]}, "last_name must be a string"),
        ({"email": {}}, "email must be a string"),
        ({"title": True}, "title must be a string"),
        ({"first_name": "a\u0000b"}, "first_name must not contain the character U+0000"),
        ({"company": "\ud800"}, "company must be valid Unicode"),
        ({"max_attempts": 0}, "max_attempts must be at least 1"),
        ({"max_attempts": 11}, "max_attempts must be at most 10"),
        ({"max_attempts": "3"}, "max_attempts must be an integer"),
        ({"max_attempts": True}, "max_attempts must be an integer"),
        ({"max_attempts": 3.0}, "max_attempts must be an integer"),
        ({"custom_data": []}, "custom_data must be an object"),
        ({"custom_data": "{}"}, "custom_data must be an object"),
        ({"custom_data": {"a": ["\u0000"]}}, "custom_data must not contain the character U+0000"),
        ({"custom_data": {"\\\u0000": 1}}, "custom_data must not contain the character U+0000"),
        ({"custom_data": {"a": "\udfff"}}, "custom_data must be valid Unicode"),
        ({"custom_data": {"a": 10**400}}, None),
        ({"custom_data": nested(100)}, "custom_data must not be nested more than 100 levels deep"),
        ({"custom_data": nested(99)}, None),
        ({"custom_data": {"a": ["[" * 200, 1e22, -1e-22, "1e999", '"', "\\"]}}, None),
        ({"custom_data": {"a": "x" * 65_536}}, "custom_data must have at most 64 KB as JSON"),
        ({"custom_data": {"a": "x" * 65_527}}, None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_contact_that_cannot_be_taken_is_named_with_the_reason(harbour, create, contact, reason):
    if isinstance(contact, dict):
        contact = {"phone_number": PHONE} | contact

    status, answer = create(harbour.wanted(contacts=[contact]))

    if reason is None:
        assert status == 201
    else:
        assert (status, answer["invalid_contacts"]) == (400, [{"index": 0, "reason": reason}])
        assert nothing_is_stored()


@pytest.mark.parametrize("number", REFUSED_NUMBERS)
def test_a_number_that_is_not_in_e164_is_refused(harbour, create, number):
    status, answer = create(harbour.wanted(number))

    assert (status, answer["code"]) == (400, "contacts_invalid")
    assert nothing_is_stored()


@pytest.mark.parametrize("number", ["+1234567", "+442079460000", "+4915112345678", "+819012345678", "+123456789012345"])
def test_numbers_of_all_countries_are_taken(harbour, create, number):
    assert create(harbour.wanted(number))[0] == 201


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000, "1e30", "1E-30", "1.5e+308", "[0, -2e-99]"])
def test_a_number_too_far_out_in_custom_data_is_refused(harbour, owner, number):
    content = json.dumps(harbour.wanted(contacts=[{"phone_number": PHONE, "custom_data": {"n": 0}}]))

    response = owner.generic("POST", f"{FUNCTIONS}create", content.replace('"n": 0', f'"n": {number}'))

    assert response.status_code == 400
    assert response.json()["invalid_contacts"] == [
        {"index": 0, "reason": "custom_data must not contain a number as far out as 1e30 or 1e-30"}
    ]


def test_what_lies_deeper_than_a_parser_goes_is_refused(harbour, owner):
    content = json.dumps(harbour.wanted(contacts=[{"phone_number": PHONE, "custom_data": {"n": 0}}]))

    response = owner.generic("POST", f"{FUNCTIONS}create", content.replace('"n": 0', '"n": ' + "[" * 900 + "]" * 900))

    assert response.status_code == 400
    assert nothing_is_stored()


# The database


def test_what_the_database_cannot_do_is_told_and_nothing_is_stored(harbour, create, monkeypatch):
    def fails(self, batch, contacts):
        raise OperationalError

    monkeypatch.setattr(CampaignContactQuerySet, "bulk_insert", fails)

    assert create(harbour.wanted()) == (500, {"error": "Failed to create batch", "code": "create_failed"})
    assert nothing_is_stored()


@pytest.mark.not_adopted
@pytest.mark.parametrize("stricter", ["ALTER first_name TYPE varchar(5)", "ADD CHECK (first_name <> 'Zoe the Great')"])
def test_a_contact_that_another_services_table_refuses_is_told_and_nothing_is_stored(harbour, create, stricter):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE campaign_contacts {stricter}")

    status, answer = create(harbour.wanted(contacts=[{"phone_number": PHONE, "first_name": "Zoe the Great"}]))

    assert (status, answer["code"]) == (400, "contacts_invalid")
    assert answer["error"] == "contacts have a value that a constraint of the table refuses"
    assert nothing_is_stored()


def test_what_was_created_can_be_read_and_cancelled(harbour, create, owner):
    _, answer = create(harbour.wanted("+12125550100", "+12125550101"))

    assert call(owner, "cancel", {"batch_id": answer["batch_id"]}).json()["contacts_skipped"] == 2
    batch = CallBatch.objects.get()
    assert batch.status == BatchStatus.CANCELLED
    assert set(batch.contacts.values_list("status", flat=True)) == {ContactStatus.SKIPPED}


def test_the_times_of_a_batch_and_its_contacts_are_those_of_the_request(harbour, create):
    before = datetime.now(UTC)

    create(harbour.wanted())

    batch, contact = CallBatch.objects.get(), CampaignContact.objects.get()
    assert abs(batch.created_at - before) < timedelta(seconds=10)
    assert abs(contact.created_at - batch.created_at) < timedelta(seconds=10)
