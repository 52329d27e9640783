"""Request ids: the same id is in all log lines of a request and in its answer."""

import logging
import re
import uuid

import pytest
from django.conf import settings
from django.db import connection
from django_guid import clear_guid

from calls.tests.support.factories import URL

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

LINE = settings.LOGGING["formatters"]["line"]["format"]


@pytest.fixture
def lines(caplog):
    """The log lines, in the format of the settings."""
    caplog.handler.setFormatter(logging.Formatter(LINE))
    for log_filter in logging.getLogger().handlers[0].filters:
        caplog.handler.addFilter(log_filter)
    return lambda: caplog.text.splitlines()


def fail(execute, sql, params, many, context):
    raise RuntimeError("unexpected")


def test_a_500_answer_has_the_request_id_that_is_in_the_log(harbour, owner, lines):
    with connection.execute_wrapper(fail):
        response = owner.post(URL, {"batch_id": str(uuid.uuid4())}, format="json")

    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert any(f"[{response['X-Request-ID']}] unexpected error" in line for line in lines())


def test_a_500_page_of_the_admin_has_the_request_id_that_is_in_the_log(admin, lines):
    admin.raise_request_exception = False
    with connection.execute_wrapper(fail):
        response = admin.get("/admin/")

    assert response.status_code == 500
    assert any(f"[{response['X-Request-ID']}] Internal Server Error" in line for line in lines())


def test_every_request_has_its_own_id(owner):
    first, second = owner.post(URL)["X-Request-ID"], owner.post(URL)["X-Request-ID"]

    assert first != second
    assert re.fullmatch("[0-9a-f]{32}", first)


def test_a_request_id_from_a_proxy_is_kept(owner):
    sent = uuid.uuid4().hex

    assert owner.post(URL, headers={"X-Request-ID": sent})["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["+12125550100", "x" * 5000, "a b", "{}"])
def test_a_malformed_request_id_is_replaced_and_not_logged(owner, caplog, sent):
    assert owner.post(URL, headers={"X-Request-ID": sent})["X-Request-ID"] != sent
    assert sent not in caplog.text


def test_the_request_id_is_exposed_to_other_origins(owner):
    response = owner.post(URL, headers={"Origin": "https://app.example.com"})

    assert response["Access-Control-Expose-Headers"].lower() == "x-request-id"


def test_a_log_line_outside_of_a_request_has_a_dash(lines):
    clear_guid()

    logging.getLogger("calls").warning("outside of a request")

    assert lines()[-1].endswith("[-] outside of a request")
