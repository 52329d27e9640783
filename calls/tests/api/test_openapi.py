"""/openapi.json and /docs: every answer of the API has an example."""

import re
from io import StringIO

import pytest
from django.core.management import call_command

from calls.tests.support.factories import FUNCTIONS, URL, call, cancel
from calls.tests.support.functions import post_to

READ_ERRORS = {
    "401": {"unauthorized"},
    "403": {"no_agency"},
    "405": {"method_not_allowed"},
    "500": {"read_failed", "internal_error"},
}
WRITE_ERRORS = READ_ERRORS | {
    "403": {"no_agency", "insufficient_role"},
    "404": {"batch_not_found"},
    "413": {"body_too_large"},
    "500": {"update_failed", "internal_error"},
}
AGENCY_ERRORS = {
    "401": {"unauthorized"},
    "403": {"no_agency", "insufficient_role"},
    "404": {"agency_not_found"},
    "405": {"method_not_allowed"},
    "500": {"agency_update_failed", "internal_error"},
}
BATCH_ID_ERRORS = {"batch_id_required", "batch_id_invalid"}
PROCESS_ANSWERS = {
    "200": {None},
    "401": {"unauthorized"},
    "404": {"not_found"},
    "405": {"method_not_allowed"},
    "500": {"read_failed", "internal_error"},
}

# The error codes of each endpoint, by HTTP status.
ANSWERS = {
    ("post", "cancel"): WRITE_ERRORS
    | {
        "200": {None},
        "400": BATCH_ID_ERRORS
        | {"reason_invalid", "dry_run_invalid", "batch_already_completed", "batch_already_cancelled"},
    },
    ("post", "cancel-all"): WRITE_ERRORS
    | {
        "200": {None},
        "400": {"body_invalid", "reason_invalid", "dry_run_invalid", "campaign_id_invalid"},
        "404": {"agent_mapping_not_found", "campaign_not_found"},
    },
    ("post", "pause"): WRITE_ERRORS
    | {"200": {None}, "400": BATCH_ID_ERRORS | {"reason_invalid", "batch_not_pausable"}},
    ("post", "resume"): WRITE_ERRORS | {"200": {None}, "400": BATCH_ID_ERRORS | {"batch_not_paused"}},
    ("post", "create"): WRITE_ERRORS
    | {
        "201": {None},
        "400": {"body_invalid", "campaign_id_required", "from_number_invalid", "contacts_invalid"}
        | {"idempotency_key_invalid", "batch_not_cancelled", "no_contacts_to_replace"},
        "404": {"agent_mapping_not_found", "campaign_not_found", "batch_not_found"},
        "409": {"batch_already_replaced"},
        "422": {"idempotency_key_reused"},
        "429": {"too_many_requests"},
        "500": {"create_failed", "internal_error"},
    },
    ("get", "list"): READ_ERRORS | {"200": {None}, "400": {"campaign_id_invalid"}, "429": {"too_many_requests"}},
    ("get", "get"): READ_ERRORS
    | {"200": {None}, "400": BATCH_ID_ERRORS, "404": {"batch_not_found"}, "429": {"too_many_requests"}},
    ("post", "calls-agency-hold"): AGENCY_ERRORS
    | {
        "200": {None},
        "400": {"body_invalid", "reason_invalid"},
        "413": {"body_too_large"},
        "503": {"hold_unconfirmed"},
    },
    ("post", "calls-agency-release"): AGENCY_ERRORS | {"200": {None}},
    ("post", "process"): PROCESS_ANSWERS,
    ("get", "process"): PROCESS_ANSWERS,
    ("post", "webhook-ingest/{agency_id}/{secret}"): {
        "200": {None},
        "400": {"body_invalid", "event_required"},
        "401": {"unauthorized"},
        "405": {"method_not_allowed"},
        "413": {"body_too_large"},
        "500": {"internal_error"},
        "503": {"not_stored"},
    },
}


def endpoint_path(name):
    return f"/functions/v1/{name}" if name.startswith(("calls-", "webhook-")) else f"{FUNCTIONS}{name}"


@pytest.fixture
def schema(client):
    response = client.get("/openapi.json", secure=True)
    assert response.status_code == 200
    return response.json()


def test_the_schema_is_valid_and_generates_without_warnings(capsys):
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=StringIO())

    assert capsys.readouterr().err == ""


def test_the_schema_has_every_endpoint_and_no_other(schema):
    functions = {(method, path) for path, methods in schema["paths"].items() for method in methods}

    assert functions == {(method, endpoint_path(name)) for method, name in ANSWERS}


@pytest.mark.parametrize(("method", "name"), ANSWERS)
def test_every_answer_and_every_error_has_an_example(schema, method, name):
    responses = schema["paths"][endpoint_path(name)][method]["responses"]

    examples = {
        status: answer["content"]["application/json"].get("examples", {"": {"value": {}}})
        for status, answer in responses.items()
    }
    assert {
        status: {example["value"].get("code") for example in by_name.values()} for status, by_name in examples.items()
    } == ANSWERS[method, name]


def examples(content):
    """Return the values of the examples of a request or an answer, by name."""
    return {name: example["value"] for name, example in content["content"]["application/json"]["examples"].items()}


@pytest.mark.parametrize(("request_name", "answer_name"), [("TwoContacts", "Created"), ("AReplacement", "Replacement")])
def test_the_create_examples_work_and_their_answers_have_the_documented_keys(
    schema, harbour, owner, request_name, answer_name
):
    create = schema["paths"][f"{FUNCTIONS}create"]["post"]
    body = examples(create["requestBody"])[request_name]
    own = {name: harbour.create_body()[name] for name in ("agent_mapping_id", "campaign_id", "from_number")}
    if "replaces" in body:
        cancelled = harbour.batch(queued=2)
        cancel(cancelled)
        own = {"replaces": str(cancelled.pk)}

    response = call(owner, "create", body | own)

    assert response.status_code == 201
    assert list(response.json()) == list(examples(create["responses"]["201"])[answer_name])


@pytest.mark.parametrize("name", ["cancel", "cancel-all", "pause", "calls-agency-hold", "calls-agency-release"])
def test_each_request_example_is_answered_with_the_documented_keys(schema, harbour, owner, name):
    operation = schema["paths"][endpoint_path(name)]["post"]
    requests = examples(operation["requestBody"]) if "requestBody" in operation else {"none": {}}
    answers = {frozenset(answer) for answer in examples(operation["responses"]["200"]).values()}

    for body in requests.values():
        own = {
            "batch_id": str(harbour.batch(queued=1).pk),
            "campaign_id": str(harbour.campaign.pk),
            "agent_mapping_id": str(harbour.agent.pk),
        }
        response = post_to(owner, endpoint_path(name), {key: own.get(key, value) for key, value in body.items()})

        assert response.status_code == 200
        assert set(response.json()) in answers


def test_the_schema_of_a_contact_has_its_limits(schema):
    contact = schema["components"]["schemas"]["NewContact"]

    assert contact["required"] == ["phone_number"]
    assert contact["properties"]["phone_number"]["pattern"] == r"^\+[1-9][0-9]{6,14}$"
    assert contact["properties"]["max_attempts"] == {
        "default": 3,
        "maximum": 10,
        "minimum": 1,
        "title": "Max Attempts",
        "type": "integer",
    }


def test_the_example_of_an_error_is_the_real_answer(schema, client, db):
    response = client.generic("POST", URL)

    answer = schema["paths"][URL]["post"]["responses"]["401"]["content"]["application/json"]["examples"]
    assert [example["value"] for example in answer.values()] == [response.json()]


def test_the_example_of_a_cancel_has_exactly_the_five_keys(schema):
    example = examples(schema["paths"][URL]["post"]["responses"]["200"])["Cancelled"]

    assert list(example) == ["success", "batch_id", "status", "contacts_skipped", "message"]


def test_the_schema_requires_a_bearer_token(schema):
    assert schema["paths"][URL]["post"]["security"] == [{"SupabaseAccessToken": []}]
    assert schema["components"]["securitySchemes"] == {
        "SupabaseAccessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }


def test_the_docs_page_loads_only_files_of_this_server(client, db):
    page = client.get("/docs", secure=True)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())

    assert page.status_code == 200
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/")
        asset = client.get(address.replace("&amp;", "&"), secure=True)
        assert asset.status_code == 200
        asset.close()


@pytest.mark.parametrize(("path", "content_type"), [("/docs", "text/html"), ("/openapi.json", "openapi+json")])
@pytest.mark.parametrize("accept", ["application/json", "text/html", "image/png", "nonsense"])
def test_docs_and_schema_are_served_with_any_accept_header(client, db, path, content_type, accept):
    answer = client.get(path, secure=True, headers={"Accept": accept})

    assert answer.status_code == 200
    assert content_type in answer["Content-Type"]
