"""The warning about tokens that are refused for their issuer alone, as behind a custom domain."""

import time

import jwt
import pytest
from rest_framework.test import APIClient

from calls.api import authentication
from calls.tests.support.factories import URL
from calls.tests.support.supabase import claims

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

SUB = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"
OTHER = "https://abcdefgh.supabase.co/auth/v1"


@pytest.fixture(autouse=True)
def _has_not_warned(monkeypatch):
    monkeypatch.setattr(authentication, "_last_warning", None)


@pytest.fixture
def warnings(settings, caplog):
    """Send a token with these claims. Return the warnings about issuers so far."""

    def send(**changes):
        token = jwt.encode(claims(SUB, **changes), settings.SUPABASE_JWT_SECRET, "HS256")
        assert APIClient().post(URL, headers={"Authorization": f"Bearer {token}"}).status_code in (401, 403)
        return [record.getMessage() for record in caplog.records if "issuer is" in record.getMessage()]

    return send


def test_a_token_that_is_refused_for_its_issuer_alone_is_warned_of_with_both_issuers(warnings, settings):
    (warning,) = warnings(iss=OTHER)

    assert repr(OTHER) in warning
    assert repr(settings.SIMPLE_JWT["ISSUER"]) in warning
    assert "SUPABASE_JWT_ISSUER" in warning


def test_the_warning_is_logged_once_an_hour(warnings, monkeypatch):
    warnings(iss=OTHER)
    assert len(warnings(iss=OTHER)) == 1

    monkeypatch.setattr(authentication, "_last_warning", time.monotonic() - 3601)

    assert len(warnings(iss=OTHER)) == 2


@pytest.mark.parametrize(
    "changes",
    [{}, {"iss": OTHER, "aud": "anon"}, {"iss": OTHER, "exp": int(time.time()) - 60}],
    ids=["the right issuer", "another audience as well", "expired as well"],
)
def test_other_tokens_are_not_warned_of(warnings, changes):
    assert warnings(**changes) == []


def test_a_long_issuer_is_cut(warnings):
    (warning,) = warnings(iss="x" * 10_000)

    assert len(warning) < 600
