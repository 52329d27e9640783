"""Sign-in to the admin: who is locked out, for how long, and what is logged, stored and shown."""

import logging
import re
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from agency_backend.sign_in import ADDRESS_FAILURE_LIMIT, client_address
from calls.tests.support.admin_pages import BATCHES, text_of
from calls.tests.support.factories import call

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

LIMIT = 10
HOME, OFFICE = "192.0.2.1", "192.0.2.2"
RIGHT, WRONG = "correct horse battery staple", "Tr0ub4dor&3"


@pytest.fixture(autouse=True)
def colleague(operator, django_user_model):
    """Another staff user. Both have the password ``RIGHT``."""
    operator.set_password(RIGHT)
    operator.save()
    return django_user_model.objects.create_user("colleague", password=RIGHT, is_staff=True)


def sign_in(name="operator", password=WRONG, address=HOME, **headers):
    """Send the sign-in form from a new browser. Return the answer: 302 if the user is signed in."""
    client = Client(headers={"X-Forwarded-Proto": "https", **headers}, REMOTE_ADDR=address)
    return client.post("/admin/login/", {"username": name, "password": password, "next": BATCHES})


def fail(times, *args, **kwargs):
    """Fail to sign in a number of times. Return the status codes."""
    return [sign_in(*args, **kwargs).status_code for _ in range(times)]


def pass_time(**time):
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(**time))


def test_ten_failures_lock_a_user_out_even_with_the_right_password():
    assert fail(LIMIT) == [200] * (LIMIT - 1) + [429]

    response = sign_in(password=RIGHT)

    assert (response.status_code, response["Retry-After"]) == (429, "900")
    assert "sessionid" not in response.cookies


def test_the_page_says_what_to_do_and_when():
    fail(LIMIT)

    response = sign_in(password=RIGHT)

    assert "Too many failed sign-ins Wait 15 minutes, then try again." in text_of(response)
    assert f"ask the people who run this server to unlock your address, {HOME}." in text_of(response)
    assert "operator" not in text_of(response)
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=|javascript:", response.content.decode())


def test_a_stranger_cannot_lock_an_operator_out_at_another_address():
    fail(LIMIT, address=OFFICE)

    assert sign_in(password=RIGHT, address=OFFICE).status_code == 429
    assert sign_in(password=RIGHT, address=HOME).status_code == 302


def test_a_user_who_is_locked_out_does_not_lock_out_colleagues_at_the_same_address():
    fail(LIMIT)

    assert sign_in("colleague", RIGHT).status_code == 302


def test_an_address_is_locked_out_after_too_many_failures_with_any_names():
    assert fail(1, "operator") == [200]
    for number in range(ADDRESS_FAILURE_LIMIT - 2):
        assert fail(1, f"guess{number}") == [200]
    assert fail(1, "one more") == [429]

    assert sign_in("colleague", RIGHT).status_code == 429
    assert sign_in("colleague", RIGHT, OFFICE).status_code == 302


def test_unknown_names_are_locked_out_like_known_ones():
    assert fail(LIMIT, "unknown") == fail(LIMIT, "operator")


def test_a_lockout_ends_after_15_minutes_also_for_a_user_who_keeps_trying():
    fail(LIMIT)
    pass_time(minutes=14)
    assert sign_in(password=RIGHT).status_code == 429

    pass_time(minutes=1)

    assert sign_in(password=RIGHT).status_code == 302


def test_failures_are_forgotten_when_the_user_signs_in():
    fail(LIMIT - 1)
    assert sign_in(password=RIGHT).status_code == 302

    assert fail(LIMIT - 1) == [200] * (LIMIT - 1)


def test_signing_in_does_not_forget_the_failures_of_others_at_the_address():
    fail(LIMIT)
    sign_in("colleague", RIGHT)

    assert sign_in(password=RIGHT).status_code == 429


def test_a_user_who_is_signed_in_stays_signed_in(admin):
    fail(LIMIT, address="127.0.0.1")

    assert sign_in(password=RIGHT, address="127.0.0.1").status_code == 429
    assert admin.get(BATCHES).status_code == 200


@pytest.mark.parametrize(
    "command", [["axes_reset"], ["axes_reset_ip", HOME], ["axes_reset_username", "operator"]], ids=str
)
def test_a_command_unlocks(command, capsys):
    fail(LIMIT)

    call_command(*command)

    assert capsys.readouterr().out == "1 attempts removed.\n"
    assert sign_in(password=RIGHT).status_code == 302


# What is logged and stored


def sign_in_lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "agency_backend.sign_in"]


def test_each_failure_is_one_warning_with_the_user_and_the_address(caplog):
    fail(LIMIT)

    refused = f"sign-in user=operator address={HOME} outcome=refused"
    assert sign_in_lines(caplog) == [refused] * (LIMIT - 1) + [refused.replace("refused", "locked_out")]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert {record.name for record in caplog.records} == {"agency_backend.sign_in", "django.request"}


def test_an_unknown_name_may_be_a_password_and_is_neither_logged_nor_stored(caplog):
    fail(LIMIT, RIGHT)
    fail(LIMIT, "operator", WRONG)

    assert f"sign-in user=unknown address={HOME} outcome=refused" in caplog.messages
    stored = [str(list(model.objects.values())) for model in apps.get_app_config("axes").get_models()]
    for secret in (RIGHT, WRONG):
        assert secret not in caplog.text
        assert not any(secret in rows for rows in stored)


def test_nothing_that_was_sent_in_the_form_is_stored():
    fail(2)

    (attempt,) = AccessAttempt.objects.all()
    assert (attempt.username, attempt.ip_address, attempt.failures_since_start) == ("operator", HOME, 2)
    assert (attempt.get_data, attempt.post_data, attempt.user_agent, attempt.http_accept) == ("", "", "", "")


@pytest.mark.parametrize("name", ["x\n2026-01-01 WARNING forged", "x\x1b[2J", "\0", "x" * 10_000, "", " "])
def test_no_user_name_is_an_error_or_forges_a_line(name, caplog):
    assert sign_in(name).status_code == 200

    assert set(sign_in_lines(caplog)) <= {f"sign-in user=unknown address={HOME} outcome=refused"}
    assert "forged" not in caplog.text


# Where a client is


def test_a_client_cannot_choose_its_address_or_escape_with_another_user_agent():
    for number in range(LIMIT):
        headers = {"X-Forwarded-For": f"198.51.100.{number}", "User-Agent": f"browser {number}"}
        response = sign_in(**headers)

    assert response.status_code == 429


def test_behind_a_proxy_each_client_has_its_own_address(settings):
    settings.TRUSTED_PROXIES = 1
    proxy = "10.0.0.1"
    for number in range(LIMIT):
        # The stranger writes an address; the proxy appends the real one.
        sign_in(address=proxy, **{"X-Forwarded-For": f"192.0.2.{number}, 198.51.100.7"})

    assert sign_in(password=RIGHT, address=proxy, **{"X-Forwarded-For": "198.51.100.7"}).status_code == 429
    assert sign_in(password=RIGHT, address=proxy, **{"X-Forwarded-For": "203.0.113.5"}).status_code == 302


@pytest.mark.parametrize(
    ("proxies", "forwarded", "server_sees", "address"),
    [
        (None, "198.51.100.1", HOME, HOME),
        (0, "198.51.100.1", HOME, HOME),
        (1, "198.51.100.1", HOME, "198.51.100.1"),
        (1, "198.51.100.1, 198.51.100.2", HOME, "198.51.100.2"),
        (2, "198.51.100.1, 198.51.100.2,198.51.100.3", HOME, "198.51.100.2"),
        (2, "198.51.100.3", HOME, "198.51.100.3"),
        (1, None, HOME, HOME),
        (1, "", HOME, HOME),
        (1, "unknown", HOME, HOME),
        (1, "198.51.100.1, \x00", HOME, HOME),
        # One client has a whole network of IPv6 addresses.
        (0, None, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        (0, None, "fe80::1%eth0", "fe80::"),
        (0, None, "::ffff:192.0.2.1", HOME),
        (1, "2001:DB8:1:2::9", "::1", "2001:db8:1:2::"),
        # A proxy on a Unix socket has no address.
        (0, None, "", "::"),
        (1, "198.51.100.1", "", "198.51.100.1"),
    ],
)
def test_the_address_is_the_one_that_the_outermost_trusted_proxy_saw(
    settings, proxies, forwarded, server_sees, address
):
    settings.TRUSTED_PROXIES = proxies
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}

    assert client_address(RequestFactory().get("/", headers=headers, REMOTE_ADDR=server_sees)) == address


@pytest.mark.parametrize("server_sees", ["", "fe80::1%eth0", "::ffff:192.0.2.1"])
def test_a_client_with_an_unusual_address_is_locked_out_too(server_sees):
    assert fail(LIMIT, address=server_sees) == [200] * (LIMIT - 1) + [429]


# The API


def test_the_api_sends_no_query_about_sign_ins(harbour, owner):
    with CaptureQueriesContext(connection) as captured:
        assert call(owner, "cancel", {"batch_id": str(harbour.batch(queued=1).pk)}).status_code == 200

    assert not any("axes_" in query["sql"] or "auth_user" in query["sql"] for query in captured)
