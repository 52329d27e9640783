"""manage.py issue_token EMAIL: an access token for local work."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from calls.tests.support.factories import URL

pytestmark = pytest.mark.django_db


def issue_token(email):
    out = StringIO()
    call_command("issue_token", email, stdout=out)
    return out.getvalue().strip()


def test_the_api_accepts_the_token(harbour, client, settings):
    settings.DEBUG = True

    response = client.generic("POST", URL, HTTP_AUTHORIZATION=f"Bearer {issue_token(harbour.owner.email.upper())}")

    assert response.json()["code"] == "batch_id_required"


def test_it_issues_no_token_in_production(harbour):
    with pytest.raises(CommandError, match="DJANGO_DEBUG"):
        issue_token(harbour.owner.email)


def test_it_issues_no_token_for_an_unknown_user(harbour, settings):
    settings.DEBUG = True

    with pytest.raises(CommandError, match="0 rows of the users table"):
        issue_token("unknown@example.com")


def test_it_issues_no_token_without_a_secret_to_sign_it(harbour, settings):
    settings.DEBUG = True
    settings.SUPABASE_JWT_SECRET = ""

    with pytest.raises(CommandError, match="set SUPABASE_JWT_SECRET"):
        issue_token(harbour.owner.email)
