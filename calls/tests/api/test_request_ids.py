"""One id for all that a request says in the log, and for its answer."""

import logging
import re
import uuid

import pytest
from django.conf import settings
from django.db import connection
from django_guid import clear_guid

from calls.tests.support.factories import URL

pytestmark = pytest.mark.django_db

LINE = settings.LOGGING["formatters"]["line"]["format"]


@pytest.fixture
def lines(caplog):
    """What stands in the log, in the form it has there."""
    caplog.handler.setFormatter(logging.Formatter(LINE))
    for log_filter in logging.getLogger().handlers[0].filters:
        caplog.handler.addFilter(log_filter)
    return lambda: caplog.text.splitlines()


def unavailable(execute, sql, params, many, context):
    raise RuntimeError("unforeseen")


def test_an_answer_of_500_carries_the_id_that_stands_in_the_log(harbour, owner, lines):
    with connection.execute_wrapper(unavailable):
        response = owner.post(URL, {"batch_id": str(uuid.uuid4())}, format="json")

    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert any(f"[{response['X-Request-ID']}] unforeseen error" in line for line in lines())


def test_a_page_of_500_does_too(admin, lines):
    admin.raise_request_exception = False
    with connection.execute_wrapper(unavailable):
        response = admin.get("/admin/")

    assert response.status_code == 500
    assert any(f"[{response['X-Request-ID']}] Internal Server Error" in line for line in lines())


def test_every_request_has_another_id(owner):
    first, second = owner.post(URL)["X-Request-ID"], owner.post(URL)["X-Request-ID"]

    assert first != second
    assert re.fullmatch("[0-9a-f]{32}", first)


def test_the_id_that_a_proxy_has_given_is_kept(owner):
    given = uuid.uuid4().hex

    assert owner.post(URL, headers={"X-Request-ID": given})["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["+12125550100", "x" * 5000, "a b", "{}"])
def test_anything_else_is_replaced_and_not_written_to_the_log(owner, caplog, given):
    assert owner.post(URL, headers={"X-Request-ID": given})["X-Request-ID"] != given
    assert given not in caplog.text


def test_a_script_of_another_origin_may_read_it(owner):
    response = owner.post(URL, headers={"Origin": "https://app.example.com"})

    assert response["Access-Control-Expose-Headers"].lower() == "x-request-id"


def test_what_no_request_has_caused_has_a_dash(lines):
    clear_guid()

    logging.getLogger("calls").warning("by nobody")

    assert lines()[-1].endswith("[-] by nobody")
