"""/openapi.json and /docs: every answer of the contract's table, and nothing from elsewhere."""

import re
from io import StringIO

import pytest
from django.core.management import call_command

from calls.tests.cast import URL

# Every row of the contract's table, and what stands below it.
ANSWERS = {
    "200": {"cancelled"},
    "400": {"batch_id_required", "batch_id_invalid", "batch_already_completed", "batch_already_cancelled"},
    "401": {"unauthorized"},
    "403": {"no_agency", "insufficient_role"},
    "404": {"batch_not_found"},
    "405": {"method_not_allowed"},
    "413": {"body_too_large"},
    "500": {"update_failed", "internal_error"},
}


@pytest.fixture
def schema(client):
    response = client.get("/openapi.json", secure=True)
    assert response.status_code == 200
    return response.json()


def test_it_is_valid_and_generates_without_warnings(capsys):
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=StringIO())

    assert capsys.readouterr().err == ""


def test_it_shows_every_answer_with_an_example(schema):
    responses = schema["paths"][URL]["post"]["responses"]

    examples = {status: answer["content"]["application/json"]["examples"] for status, answer in responses.items()}
    assert {
        status: {example["value"].get("code", "cancelled") for example in named.values()}
        for status, named in examples.items()
    } == ANSWERS


def test_an_example_is_what_the_function_answers(schema, client, db):
    response = client.generic("POST", URL)

    answer = schema["paths"][URL]["post"]["responses"]["401"]["content"]["application/json"]["examples"]
    assert [example["value"] for example in answer.values()] == [response.json()]


def test_the_example_of_success_has_exactly_the_five_keys(schema):
    (example,) = schema["paths"][URL]["post"]["responses"]["200"]["content"]["application/json"]["examples"].values()

    assert list(example["value"]) == ["success", "batch_id", "status", "contacts_skipped", "message"]


def test_it_needs_a_bearer_token(schema):
    assert schema["paths"][URL]["post"]["security"] == [{"SupabaseAccessToken": []}]
    assert schema["components"]["securitySchemes"] == {
        "SupabaseAccessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }


def test_the_docs_page_and_all_that_it_loads_come_from_here(client, db):
    page = client.get("/docs", secure=True)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())

    assert page.status_code == 200
    assert len(loaded) >= 4
    for address in loaded:
        assert address.startswith("/")
        asset = client.get(address.replace("&amp;", "&"), secure=True)
        assert asset.status_code == 200
        asset.close()
