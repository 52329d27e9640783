"""The log line of a request that failed or was refused with 401 or 403: its reason, user and agency."""

import logging
import time
import uuid

import jwt
import pytest
from django.core.management import CommandError
from django.db import OperationalError
from rest_framework.test import APIClient

from calls.api import authentication
from calls.models import AgencyUser, CallBatch
from calls.roles import Role
from calls.statuses import BatchStatus
from calls.tests.support.factories import URL, call, client_of
from calls.tests.support.supabase import SigningKey, claims, supabase_project
from calls.tests.support.webhooks import SIGNING_SECRET, WEBHOOK_SECRET

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

SUB = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"
# The claims of a token that is refused, and the reason in the log.
CLAIMS = [
    ({"exp": int(time.time()) - 60}, "token expired"),
    ({"nbf": int(time.time()) + 600}, "token not valid yet"),
    ({"aud": "anon"}, "wrong audience"),
    ({"iss": "https://evil.example"}, "wrong issuer"),
    ({"exp": None}, "missing claim"),
    ({"sub": None}, "missing claim"),
]


@pytest.fixture(autouse=True)
def _has_warned_of_issuers(monkeypatch):
    monkeypatch.setattr(authentication, "_last_warning", time.monotonic())


def refused(authorization, caplog):
    """Send a cancel and return the one line that was logged. It contains no part of the token."""
    client = APIClient()
    client.post(URL, headers={"Authorization": authorization} if authorization else {})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in (authorization or "").rpartition(" ")[2].split("."):
        assert len(part) < 4 or part not in record.getMessage()
    return record.getMessage()


@pytest.mark.parametrize(("changes", "reason"), CLAIMS, ids=[reason for _, reason in CLAIMS])
def test_a_refused_token_is_logged_with_the_reason(settings, caplog, changes, reason):
    valid = claims(SUB) | changes
    token = jwt.encode(
        {name: value for name, value in valid.items() if value is not None}, settings.SUPABASE_JWT_SECRET, "HS256"
    )

    assert refused(f"Bearer {token}", caplog) == f"Unauthorized ({reason}): {URL}"


def test_a_token_without_a_users_id_is_logged_with_the_reason(settings, caplog):
    token = jwt.encode(claims("no-uuid"), settings.SUPABASE_JWT_SECRET, "HS256")

    assert refused(f"Bearer {token}", caplog) == f"Unauthorized (Token has no user): {URL}"


def test_a_token_of_an_unknown_key_is_logged_with_the_reason(settings, caplog):
    with supabase_project() as project:
        project.publish(SigningKey("ES256"))
        settings.SUPABASE_URL = project.url
        line = refused(f"Bearer {SigningKey('ES256').sign(claims(SUB))}", caplog)

    assert line == f"Unauthorized (unknown key): {URL}"


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "Authentication credentials were not provided."),
        ("Basic dXNlcjpwYXNzd29yZA==", "malformed header"),
        ("Bearer sb_secret_0123456789abcdef", "malformed token"),
        ("Bearer aaaa.bbbb.cccc", "malformed token"),
        (f"Bearer {jwt.encode(claims(SUB), 'x' * 40, 'HS256')}", "wrong signature"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_request_without_a_usable_token_is_logged_with_the_reason(caplog, authorization, reason):
    assert refused(authorization, caplog) == f"Unauthorized ({reason}): {URL}"


def test_a_caller_with_another_role_is_logged_with_user_and_agency(harbour, caplog):
    member = harbour.users[Role.AGENCY_MEMBER]

    assert client_of(member).post(URL).status_code == 403

    reason = f"insufficient role: agency_member, user={member.pk}, agency={harbour.agency.pk}"
    assert caplog.messages == [f"Forbidden ({reason}): {URL}"]


def test_a_caller_without_a_row_and_one_without_an_agency_are_told_apart(harbour, caplog):
    unknown = AgencyUser(id=uuid.uuid4(), email="")
    AgencyUser.objects.filter(pk=harbour.owner.pk).update(agency=None)

    assert [client_of(user).post(URL).json()["code"] for user in (unknown, harbour.owner)] == ["no_agency"] * 2

    assert caplog.messages == [
        f"Forbidden (no users row, user={unknown.pk}): {URL}",
        f"Forbidden (users row without agency, user={harbour.owner.pk}): {URL}",
    ]


def test_a_refused_webhook_is_logged_with_the_reason(harbour, caplog):
    agency = harbour.agency
    agency.webhook_secret, agency.webhook_signing_secret = WEBHOOK_SECRET, SIGNING_SECRET
    agency.save()
    for agency_id, secret in ((uuid.uuid4(), WEBHOOK_SECRET), (agency.pk, "wrong"), (agency.pk, WEBHOOK_SECRET)):
        assert APIClient().post(f"/functions/v1/webhook-ingest/{agency_id}/{secret}").status_code == 401

    assert [line.partition(":")[0] for line in caplog.messages] == [
        "Unauthorized (unknown agency)",
        "Unauthorized (wrong webhook secret)",
        "Unauthorized (wrong or old webhook signature)",
    ]


def test_a_refused_cron_request_is_logged_with_the_reason(settings, caplog):
    settings.CRON_SECRET = "the-cron-secret"

    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert call(APIClient(), "process", **headers).status_code == 401

    assert [line.partition(":")[0] for line in caplog.messages] == [
        "Unauthorized (no cron secret)",
        "Unauthorized (wrong cron secret)",
    ]


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
@pytest.mark.parametrize("method", ["locked", "find"])
def test_a_verb_that_a_database_error_fails_is_logged_as_an_error(harbour, owner, monkeypatch, caplog, verb, method):
    def fails(self, *arguments, **conditions):
        raise OperationalError

    batch = harbour.batch(BatchStatus.PAUSED if verb == "resume" else BatchStatus.PROCESSING)
    if method == "locked":
        monkeypatch.setattr(CallBatch, "locked", fails)
    else:
        monkeypatch.setattr(type(CallBatch.objects.all()), "get", fails)
    assert call(owner, verb, {"batch_id": str(batch.pk)}).status_code == 500

    subject = f"{verb if method == 'locked' else 'find'} batch={batch.pk}"
    (record,) = [record for record in caplog.records if record.getMessage().startswith(subject)]
    assert record.levelno == logging.ERROR
    assert "outcome=update_failed" in record.getMessage()


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_a_verb_that_the_batchs_status_does_not_allow_is_logged_as_information(harbour, owner, caplog, verb):
    caplog.set_level(logging.INFO)
    batch = harbour.batch(BatchStatus.CANCELLED)

    assert call(owner, verb, {"batch_id": str(batch.pk)}).status_code == 400

    (record,) = [record for record in caplog.records if record.getMessage().startswith(f"{verb} batch={batch.pk}")]
    assert record.levelno == logging.INFO


def test_an_export_that_cannot_be_read_is_logged_as_a_failed_read(harbour, run_command, monkeypatch, caplog):
    def fails(self, *arguments, **conditions):
        raise OperationalError

    batch = harbour.batch()
    monkeypatch.setattr(type(CallBatch.objects.all()), "get", fails)
    with pytest.raises(CommandError, match="read_failed"):
        run_command("export_batch", batch.pk)

    assert f"find batch={batch.pk} outcome=read_failed" in caplog.messages
