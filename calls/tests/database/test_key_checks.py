"""The database checks of the agencies' keys."""

import pytest
from cryptography.fernet import Fernet
from django.core.checks import run_checks

from calls.models import Agency

pytestmark = pytest.mark.django_db


def messages():
    return [(message.id, message.msg, message.hint) for message in run_checks(databases=["default"])]


@pytest.fixture(autouse=True)
def encrypted(settings):
    settings.ULTRAVOX_API_KEY, settings.RETRY_PAUSE = "the-provider-s-key", 60
    settings.CREDENTIALS_KEYS = [Fernet.generate_key().decode()]


def test_usable_keys_and_a_usable_statement_are_not_reported(harbour, settings):
    settings.ULTRAVOX_API_KEY_SQL = "SELECT slug FROM agencies WHERE id = %(agency_id)s AND slug LIKE '%%-key'"
    token = Fernet(settings.CREDENTIALS_KEYS[0]).encrypt(b"a-key")
    Agency.objects.filter(pk=harbour.agency.pk).update(ultravox_api_key_encrypted=token)

    assert messages() == []


def test_an_agency_whose_stored_key_cannot_be_decrypted_is_reported(harbour, bluebell):
    Agency.objects.filter(pk=harbour.agency.pk).update(ultravox_api_key_encrypted=b"of-another-key")

    ((check, text, hint),) = messages()

    assert (check, text) == ("calls.W026", "No call is placed for the agency harbour.")
    assert "cannot be decrypted" in hint


def test_a_stored_key_without_credentials_keys_is_reported(harbour, settings):
    settings.CREDENTIALS_KEYS = []
    Agency.objects.filter(pk=harbour.agency.pk).update(ultravox_api_key_encrypted=b"any")

    ((check, _, hint),) = messages()

    assert check == "calls.W026"
    assert hint.startswith("CREDENTIALS_KEYS is not set.")


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [("SELEKT %(agency_id)s", "42601"), ("SELECT no_such_function(%(agency_id)s)", "42883")],
)
def test_a_statement_that_cannot_work_is_reported(harbour, settings, statement, sqlstate):
    settings.ULTRAVOX_API_KEY_SQL = statement

    ((check, text, _),) = messages()

    assert (check, text) == (
        "calls.W027",
        f"ULTRAVOX_API_KEY_SQL fails for every agency: ProgrammingError, {sqlstate}.",
    )


def test_the_statement_is_planned_and_not_run(harbour, settings):
    settings.ULTRAVOX_API_KEY_SQL = "SELECT (1 / (random() * 0)::int)::text || %(agency_id)s::text"

    assert messages() == []
