"""Secrets and phone numbers do not reach the logs, and no text from outside forges a line."""

import logging
import re
import socket
from base64 import b64encode
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls.redaction import WithoutSecrets, redact
from calls.tests.support.server import database_url, gunicorn, request

pytestmark = pytest.mark.not_adopted

AGENCY_ID = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"
SECRET = "S3cret-value_0123456789"
TOKEN = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{SECRET}"
INGEST = f"/functions/v1/webhook-ingest/{AGENCY_ID}/"


def logged(message, *args, **attributes):
    """Return what the log contains for a record that passes the filter."""
    record = logging.makeLogRecord({"msg": message, "args": args, **attributes})
    assert WithoutSecrets().filter(record)
    return logging.Formatter("%(message)s").format(record)


@pytest.mark.django_db
def test_no_log_contains_the_webhook_secret(harbour, capfd):
    secret = """a secret's "odd" characters"""
    quoted_secrets = quote(secret), quote(f"{secret}-and-more"), f"{quote(secret)}/"
    with gunicorn(database_url(), GUNICORN_CMD_ARGS="--access-logfile=-") as server:
        for name in ("webhook-ingest", "%77ebhook%2Dingest", "Webhook_Ingest", "%2577ebhook-ingest", "x"):
            for path in (f"/functions/v1/{name}/{harbour.agency.pk}/{quoted}" for quoted in quoted_secrets):
                request(server, "POST", path, "{")
                request(server, "GET", path)

    out = "".join(capfd.readouterr())
    # gunicorn logs each request, and Django logs each answer of 4xx.
    assert out.count(" HTTP/1.1") == 30
    assert out.count(f"/{harbour.agency.pk}/***") == 60
    assert "odd" not in out
    assert "character" not in out


def send_raw(server, *lines):
    """Send a request line and header lines as they are, and wait until the answer has ended."""
    host, _, port = server.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall("".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")).encode("latin-1"))
        while client.recv(4096):
            pass


@pytest.mark.django_db
def test_no_log_contains_a_secret_or_a_number_of_an_odd_request(capfd):
    host = "Host: 127.0.0.1"
    basic = f"Authorization: Basic {b64encode(f'{TOKEN}:'.encode()).decode()}"
    targets = [
        f"/functions//v1/x/{AGENCY_ID}/{SECRET}",
        f"http://127.0.0.1/functions/v1/webhook_ingest/{AGENCY_ID}/{SECRET}",
        f"/%66unctions/v1/x/{AGENCY_ID}/{SECRET}%0aFORGED",
        f"/healthz/{TOKEN}",
        f"/admin/?access_token={SECRET}",
        "/admin/calls/campaigncontact/?q=+12125550100",
        "/admin/calls/campaigncontact/?q=%2B12125550100",
        "/nothing/%2B12125550100",
    ]
    headers = [
        f"apikey {SECRET}",
        f"X-API-Key {SECRET}",
        f"Cookie sessionid={SECRET}; theme=dark",
        f"Authorization Basic {SECRET}",
        f"Authorization Bearer%20{SECRET}",
        f"Referer: https://app.example{INGEST}{SECRET}",
        f"User-Agent: x\x85FORGED {TOKEN}",
        basic,
    ]
    with gunicorn(database_url(), GUNICORN_CMD_ARGS="--access-logfile=-") as server:
        for target in targets:
            send_raw(server, f"GET {target} HTTP/1.1", host)
        for header in headers:
            send_raw(server, "GET /nothing HTTP/1.1", host, header)

    out = "".join(capfd.readouterr())
    assert out.count("Invalid HTTP Header") >= 5
    assert out.count(" HTTP/1.1") == len(targets) + 3
    assert SECRET not in out
    assert "2125550100" not in out
    assert "\x85" not in out


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("parameter", ["_to_field", "_popup=1&_to_field"])
def test_a_query_of_the_admin_forges_no_line(admin, capfd, parameter):
    cookie = f"sessionid={admin.cookies['sessionid'].value}"
    with gunicorn(database_url()) as server:
        send_raw(
            server,
            f"GET /admin/calls/callbatch/?{parameter}=a%0aFORGED%0d%c2%85FORGED HTTP/1.1",
            *("Host: 127.0.0.1", "X-Forwarded-Proto: https", f"Cookie: {cookie}"),
        )

    out = "".join(capfd.readouterr())
    assert "The field a\\nFORGED\\r\\x85FORGED cannot be referenced." in out
    assert not [line for line in out.splitlines() if line.startswith("FORGED")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f'Not Found: /webhook-ingest/{AGENCY_ID}/it\'s "1" %s', f"Not Found: /webhook-ingest/{AGENCY_ID}/***"),
        (f'"GET /webhook-ingest/{AGENCY_ID}/1?x HTTP/1.1" 200', f'"GET /webhook-ingest/{AGENCY_ID}/*** HTTP/1.1" 200'),
        (f'"GET /webhook%2Dingest/{AGENCY_ID}/1 HTTP/1.1" 2', f'"GET /webhook-ingest/{AGENCY_ID}/*** HTTP/1.1" 2'),
        (f'"GET /webhook-ingest/{AGENCY_ID}/%0a1 HTTP/1.1" 200', f'"GET /webhook-ingest/{AGENCY_ID}/*** HTTP/1.1" 200'),
        (f'"GET /webhook-ingest/%20{AGENCY_ID}/1 HTTP/1.1" 200', '"GET /webhook-ingest/*** HTTP/1.1" 200'),
        (f"Unauthorized: /webhook-ingest/{AGENCY_ID} /1", "Unauthorized: /webhook-ingest/***"),
        ("Not Found: /webhook-ingest/1", "Not Found: /webhook-ingest/***"),
        (
            '"POST /functions/v1/calls-batch-cancel HTTP/1.1" 200',
            '"POST /functions/v1/calls-batch-cancel HTTP/1.1" 200',
        ),
        ('"GET /functions/v1/calls-batch-list?a=/b HTTP/1.1" 2', '"GET /functions/v1/calls-batch-list HTTP/1.1" 2'),
        ("Invalid HTTP Header: 'Authorization Bearer e30.e30.x'", "Invalid HTTP Header: 'Authorization Bearer ***'"),
        ('"GET /a HTTP/1.1" 200 "https://x/?q=a b" "agent"', '"GET /a HTTP/1.1" 200 "https://x/" "agent"'),
        ('"GET /a? HTTP/1.1" 200 "https://x/?" "agent"', '"GET /a? HTTP/1.1" 200 "https://x/?" "agent"'),
        ("operator does not exist: text ?| text[], (?:x)", "operator does not exist: text ?| text[], (?:x)"),
        ("postgres://me:p@ss/w:rd@db.example:5432/x failed", "postgres://me:***@db.example:5432/x failed"),
        ("GET http://127.0.0.1:8000/admin/ 200", "GET http://127.0.0.1:8000/admin/ 200"),
        ("Forbidden (CSRF cookie not set.): /admin/login/", "Forbidden (CSRF cookie not set.): /admin/login/"),
        ("no real call is placed: ULTRAVOX_API_KEY is not set", "no real call is placed: ULTRAVOX_API_KEY is not set"),
        ("100 % of all? Yes: 50%25", "100 % of all? Yes: 50%25"),
    ],
)
def test_only_secrets_are_redacted(message, expected):
    assert logged(message) == expected


# Secrets that need no context, and lines that show that a text in them is a secret. ``*`` is the secret.
WRAPPINGS = f"""
eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.*
eyJ*
eyJ*.*
eyJ*.*.
sb_secret_*
sb_publishable_*
whsec_*/+*==
/functions/v1/webhook-ingest/{AGENCY_ID}/*
/functions/v1/Webhook_Ingest/{AGENCY_ID}/*/more
//functions//v1//x//{AGENCY_ID}//*
/FUNCTIONS/v1/webhook ingest/*
/functions/./v1/x/{AGENCY_ID}/*
https://user@host:1/functions/v1/x/not-an-id/*
/webhook-ingest/{AGENCY_ID}/*
/admin/?q=*
/admin/?*
/admin/?&q=a&*
apikey *
APIKEY: *
{{'x-api-key': '*', 'a': '*'}}
x-api-key\t*
Authorization: Basic *==
Authorization:*
Proxy-Authorization Digest a='*', b='*'
Cookie sessionid=*; csrftoken=*
Set-Cookie: sb-a-auth-token.0=base64-*; Path=/
 sessionid=*
bearer   *
Bearer+*
Bearer\t*
postgresql://me:*@host/db
postgres://me:*/@:*@host/db
""".strip("\n").splitlines()
ENCODINGS = [
    lambda text: text,
    quote,
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text)),
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: "".join(f"%25{byte:02X}" for byte in text.encode()),
]
LINES = [
    "{}",
    "Not Found: {}",
    '"GET {} HTTP/1.1" 404 43 "-" "agent"',
    'GET /x HTTP/1.1" 200 "https://app.example/{}" "agent"',
    "Invalid HTTP Header: '{}'",
    "first\n{}\r\x85",
]
TEXTS = st.text("abcdefXYZ0123456789-_", min_size=20, max_size=60).map(lambda text: f"S3cret{text}")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@given(text=TEXTS, encode=st.sampled_from(ENCODINGS), line=st.sampled_from(LINES))
def test_no_secret_is_logged_in_whatever_it_is_wrapped(wrapping, text, encode, line):
    message = line.replace("{}", encode(wrapping.replace("*", text)))
    # The control: without the filter the log contains the secret.
    assert text in unquote(unquote(message))

    for out in (logged(message), logged("%s", message), logged("x", stack_info=message)):
        assert "S3cret" not in unquote(unquote(out))


@given(st.integers(1_000_000, 999_999_999_999_999), st.sampled_from(ENCODINGS), st.sampled_from(LINES))
def test_no_phone_number_is_logged(number, encode, line):
    message = line.replace("{}", encode(f"/admin/+{number}/change/"))

    assert str(number) in unquote(unquote(message))
    assert str(number) not in unquote(unquote(logged(message)))


@given(st.text())
def test_every_text_is_one_line_of_printable_characters(text):
    line = logged("Bad request: %s", text)

    assert line.isprintable()
    assert redact(line) == line


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x1b", "\0", "\x7f", "\u202e", "\ud800"]
)
def test_control_characters_are_written_as_escapes(character):
    escape = character.encode("unicode_escape").decode()

    assert logged(f"a{character}FORGED") == f"a{escape}FORGED"
    assert logged("%s é", f"a{character}FORGED") == f"a{escape}FORGED é"


def exception_info(message):
    try:
        try:
            raise RuntimeError(message)
        except RuntimeError as cause:
            cause.add_note(message)
            raise ValueError(message) from cause
    except ValueError as error:
        return type(error), error, error.__traceback__


def test_a_traceback_keeps_its_lines_and_loses_its_secrets():
    text = logged("failed", exc_info=exception_info(f"{TOKEN}\nFORGED\x85\x1bFORGED {INGEST}{SECRET}"))

    assert SECRET not in text
    assert text.startswith('failed\nTraceback (most recent call last):\n  File "')
    assert text.count("\n  File ") == 2
    assert "RuntimeError: ***\n" in text
    assert "ValueError: ***\n" in text
    # Only the first two lines begin at the margin.
    assert re.findall(r"^\S.*", text, re.MULTILINE) == ["failed", "Traceback (most recent call last):"]
    assert len(text.splitlines()) == text.count("\n") + 1


def test_a_traceback_that_another_handler_has_formatted_is_redacted_too():
    assert logged("failed", exc_text=f"ValueError: {TOKEN}\nFORGED") == "failed\nValueError: ***\n  FORGED"


class Unprintable:
    def __str__(self):
        raise RuntimeError("cannot be printed")


@pytest.mark.parametrize(
    "arguments", [("%d", "x"), ("%s %s", "x"), ("x", 1), ("%s", Unprintable()), ("%(a)s", {"b": 1})]
)
def test_a_message_whose_arguments_do_not_fit_is_reported_by_the_handler_and_not_raised(capsys, arguments):
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler())
    logger.addFilter(WithoutSecrets())

    logger.error(*arguments)

    assert "--- Logging error ---" in capsys.readouterr().err


# What the patterns begin with, and what they repeat.
STARTS = ["", *"functions/v1/ cookie authorization bearer :// ?a eyJ".split()]
PARTS = [
    *"a eyJ ?a % %25 %2541 :// ://: ://a: ://a:@ functions/ functions// functions/v1/a webhook-ingest/".split(),
    *"webhook-ingest cookie: cookie:a authorization: bearer bearer: +1 0- : = / ' \"".split(),
    *(" ", "apikey ", "bearer ", " HTTP/", "\n", "\u2028"),
]


@pytest.mark.parametrize("part", PARTS)
def test_a_long_line_is_redacted(part):
    for start in STARTS:
        # A pattern that reads the same characters again from each position would take minutes.
        assert redact(start + part * (65_536 // len(part))).isprintable()
