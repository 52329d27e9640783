"""POST /functions/v1/calls-batch-create: the contacts, which are stored all or not at all."""

import json
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.models import CallBatch, CampaignContact
from calls.tests.support.factories import FUNCTIONS, PHONE
from calls.tests.support.new_batches import INVALID_PHONE_NUMBERS, nothing_is_stored

pytestmark = pytest.mark.django_db


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

    status, _ = create(harbour.create_body(contacts=[sent]))

    assert status == 201
    contact = CampaignContact.objects.get()
    assert {name: getattr(contact, name) for name in sent} == sent
    assert (contact.agency, contact.campaign, contact.status) == (harbour.agency, harbour.campaign, "pending")
    assert (contact.attempts, contact.do_not_call, contact.created_at) == (0, False, contact.updated_at)


def test_contacts_keep_their_order_and_the_first_of_several_with_the_same_number_is_kept(harbour, create):
    numbers = [f"+1212555{index:04d}" for index in range(300)]
    contacts = [{"phone_number": number, "first_name": "first"} for number in numbers]

    _, answer = create(harbour.create_body(contacts=[*contacts, {"phone_number": numbers[7], "first_name": "second"}]))

    stored = CampaignContact.objects.oldest_first()
    assert [contact.phone_number for contact in stored] == numbers
    assert {contact.first_name for contact in stored} == {"first"}
    assert (answer["total_contacts"], answer["duplicates_removed"]) == (300, 1)


def test_10000_contacts_need_as_many_statements_as_one(harbour, create):
    def statements(body):
        with CaptureQueriesContext(connection) as queries:
            assert create(body)[0] == 201
        return [query["sql"].split()[0] for query in queries]

    one = statements(harbour.create_body())
    many = statements(harbour.create_body(*(f"+1212{index:07d}" for index in range(10_000))))

    assert one == many
    assert one.count("COPY") == 1
    assert CallBatch.objects.first().contacts.count() in (1, 10_000)
    assert CampaignContact.objects.count() == 10_001


def test_more_than_10000_contacts_are_refused(harbour, create):
    status, answer = create(harbour.create_body(*[PHONE] * 10_001))

    assert (status, answer["code"]) == (400, "contacts_invalid")
    assert answer["error"] == "contacts must have at most 10,000 contacts"


def test_one_invalid_contact_of_10000_is_reported_and_nothing_is_stored(harbour, create):
    numbers = [f"+1212{index:07d}" for index in range(10_000)]
    numbers[7000] = "212 555 0100"

    status, answer = create(harbour.create_body(*numbers))

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


def test_the_first_20_invalid_contacts_are_reported_once_each(harbour, create):
    contact = {"phone_number": "nonsense", "first_name": 7}

    status, answer = create(harbour.create_body(contacts=[{"phone_number": PHONE}, *[contact] * 99]))

    assert (status, answer["error"]) == (400, "99 of 100 contacts are invalid; nothing was stored")
    assert [invalid["index"] for invalid in answer["invalid_contacts"]] == list(range(1, 21))
    assert all(invalid["reason"].startswith("phone_number ") for invalid in answer["invalid_contacts"])


def create_with_number(harbour, owner, number):
    """Create a batch with a number in the custom data that is written in this way. Returns the response."""
    content = json.dumps(harbour.create_body(contacts=[{"phone_number": PHONE, "custom_data": {"n": 0}}]))
    return owner.generic("POST", f"{FUNCTIONS}create", content.replace('"n": 0', f'"n": {number}'))


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
        ({"custom_data": nested(100)}, "custom_data must not be nested more than 100 levels deep"),
        ({"custom_data": nested(99)}, None),
        ({"custom_data": {"a": ["[" * 200, 1e22, -1e-22, "1e999", '"', "\\"]}}, None),
        ({"custom_data": {"a": "x" * 65_536}}, "custom_data must have at most 64 KB as JSON"),
        ({"custom_data": {"a": "x" * 65_527}}, None),
        *(
            (
                {"custom_data": {"policy": "A-17", key: "x"}},
                'custom_data must not have a key that begins with "ultravox.": the voice provider reserves these',
            )
            for key in ("ultravox.sip", "ultravox.", "ULTRAVOX.Sip")
        ),
        ({"custom_data": {"ultravox": 1, "ultravox_id": 2, "our.ultravox.id": 3, "a": {"ultravox.sip": 4}}}, None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_invalid_contact_is_reported_with_the_reason(harbour, create, contact, reason):
    if isinstance(contact, dict):
        contact = {"phone_number": PHONE} | contact

    status, answer = create(harbour.create_body(contacts=[contact]))

    if reason is None:
        assert status == 201
    else:
        assert (status, answer["invalid_contacts"]) == (400, [{"index": 0, "reason": reason}])
        assert nothing_is_stored()


@pytest.mark.parametrize("number", INVALID_PHONE_NUMBERS)
def test_a_phone_number_that_is_not_e164_is_refused(harbour, create, number):
    status, answer = create(harbour.create_body(number))

    assert (status, answer["code"]) == (400, "contacts_invalid")
    assert nothing_is_stored()


@pytest.mark.parametrize("number", ["+1234567", "+442079460000", "+4915112345678", "+819012345678", "+123456789012345"])
def test_phone_numbers_of_all_countries_are_accepted(harbour, create, number):
    assert create(harbour.create_body(number))[0] == 201


@pytest.mark.parametrize(
    "number",
    [
        *("1e30", "-1E+30", "1.5e+308", "1e999", "-1e999"),
        *("1" + "0" * 30, "-1" + "0" * 30, "1" + "0" * 30 + ".5", "9" * 4299, "9" * 5000),
        *("9.9e-30", "1E-30", "-5e-324", "1e-400", "-1e-400", "0." + "0" * 400 + "1", "[0, -2e-99]"),
    ],
    ids=lambda number: number[:35],
)
def test_custom_data_with_a_number_out_of_range_is_refused(harbour, owner, number):
    response = create_with_number(harbour, owner, number)

    reason = "must only contain numbers that are 0, or at least 1e-29 and less than 1e30 (positive or negative)"
    assert response.status_code == 400
    assert response.json()["invalid_contacts"] == [{"index": 0, "reason": f"custom_data {reason}"}]
    assert nothing_is_stored()


@pytest.mark.parametrize(
    "number",
    [
        *("0", "-0", "0.0", "-0.0", "0e5", "0.00e-999", "0e999"),
        *("9" * 30, "-" + "9" * 30, "9007199254740993", "9.9e29", "-1e29", "1e23", "1E5"),
        *("1e-29", "-1.5E-29", "0.1", "0.30000000000000004", "1.7976931348623157", "-123456.789e-3"),
    ],
)
def test_a_number_in_custom_data_comes_back_as_it_was_sent(harbour, owner, number):
    batch_id = create_with_number(harbour, owner, number).json()["batch_id"]

    content = owner.get(f"{FUNCTIONS}get", {"batch_id": batch_id}).content
    (contact,) = json.loads(content, parse_int=Decimal, parse_float=Decimal)["contacts"]
    assert contact["custom_data"]["n"] == Decimal(number)


def test_custom_data_nested_deeper_than_the_parser_allows_is_refused(harbour, owner):
    response = create_with_number(harbour, owner, "[" * 900 + "]" * 900)

    assert response.status_code == 400
    assert nothing_is_stored()


@pytest.mark.not_adopted
@pytest.mark.parametrize("stricter", ["ALTER first_name TYPE varchar(5)", "ADD CHECK (first_name <> 'Zoe the Great')"])
def test_a_contact_that_a_stricter_table_rejects_is_refused_and_nothing_is_stored(harbour, create, stricter):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE campaign_contacts {stricter}")

    status, answer = create(harbour.create_body(contacts=[{"phone_number": PHONE, "first_name": "Zoe the Great"}]))

    assert (status, answer["code"]) == (400, "contacts_invalid")
    assert answer["error"] == "contacts have a value that a constraint of the table refuses"
    assert nothing_is_stored()
