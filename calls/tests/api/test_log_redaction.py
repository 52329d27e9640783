"""Secrets do not reach the logs."""

import logging
from urllib.parse import quote

import pytest

from calls.redaction import WithoutSecrets
from calls.tests.support.server import database_url, gunicorn, request

pytestmark = pytest.mark.django_db

AGENCY_ID = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"


def test_no_log_contains_the_webhook_secret(harbour, capfd):
    secret = """a secret's "odd" characters"""
    quoted_secrets = quote(secret), quote(f"{secret}-and-more"), f"{quote(secret)}/"
    with gunicorn(database_url(), GUNICORN_CMD_ARGS="--access-logfile=-") as server:
        for name in ("webhook-ingest", "%77ebhook%2Dingest"):
            for path in (f"/functions/v1/{name}/{harbour.agency.pk}/{quoted}" for quoted in quoted_secrets):
                request(server, "POST", path, "{")
                request(server, "GET", path)

    logged = "".join(capfd.readouterr())
    # gunicorn logs each request, and Django logs each answer of 4xx.
    assert logged.count(" HTTP/1.1") == 12
    assert logged.count("/webhook-ingest/") >= 12
    assert "odd" not in logged
    assert "character" not in logged


@pytest.mark.parametrize(
    ("message", "logged"),
    [
        (f'Not Found: /webhook-ingest/{AGENCY_ID}/it\'s "1" %s', f"Not Found: /webhook-ingest/{AGENCY_ID}/***"),
        (f'"GET /webhook-ingest/{AGENCY_ID}/1?x HTTP/1.1" 200', f'"GET /webhook-ingest/{AGENCY_ID}/*** HTTP/1.1" 200'),
        (f'"GET /webhook%2Dingest/{AGENCY_ID}/1 HTTP/1.1" 200', '"GET *** HTTP/1.1" 200'),
        (f'"GET /webhook-ingest/{AGENCY_ID}/%0a1 HTTP/1.1" 200', f'"GET /webhook-ingest/{AGENCY_ID}/*** HTTP/1.1" 200'),
        (f'"GET /webhook-ingest/%20{AGENCY_ID}/1 HTTP/1.1" 200', '"GET /webhook-ingest/*** HTTP/1.1" 200'),
        (f"Unauthorized: /webhook-ingest/{AGENCY_ID} /1", "Unauthorized: /webhook-ingest/***"),
        ("Not Found: /webhook-ingest/1", "Not Found: /webhook-ingest/***"),
        ("Invalid HTTP Header: 'Authorization Bearer e30.e30.x'", "Invalid HTTP Header: 'Authorization Bearer ***'"),
        ("100 % of all", "100 % of all"),
    ],
)
def test_only_secrets_are_redacted(message, logged):
    record = logging.makeLogRecord({"msg": message})

    assert WithoutSecrets().filter(record)
    assert record.getMessage() == logged
