"""Agencies whose key cannot be had: their batches wait with a reason, and no other agency waits with them."""

import logging
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet

from calls.audit import Source
from calls.dialler.accounts import get_provider, key_problem
from calls.dialler.passes import run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import run_sweep
from calls.exceptions import BatchReadFailed, CredentialsUnusable
from calls.models import Agency
from calls.statuses import ContactStatus
from calls.tests.support.accounts import attempts, expire
from calls.tests.support.factories import STAFF_ACTOR, backdate_attempts, checked_counters
from calls.tests.support.outage import database_away
from calls.tests.support.provider import KEY

pytestmark = pytest.mark.django_db(transaction=True)


def sql_that_raises(settings, harbour):
    settings.ULTRAVOX_API_KEY_SQL = (
        f"SELECT CASE WHEN %(agency_id)s = '{harbour.agency.pk}' THEN ('a-secret-'||1)::int::text ELSE NULL END"
    )


def wrong_credentials_keys(settings, harbour):
    token = Fernet(Fernet.generate_key()).encrypt(b"a-secret-")
    Agency.objects.filter(pk=harbour.agency.pk).update(ultravox_api_key_encrypted=token)


def not_even_a_token(settings, harbour):
    Agency.objects.filter(pk=harbour.agency.pk).update(ultravox_api_key_encrypted=b"a-secret-")


def no_key_at_all(settings, harbour):
    harbour.agency.remove_ultravox_key(actor=STAFF_ACTOR, source=Source.COMMAND)


def several_rows(settings, harbour):
    settings.ULTRAVOX_API_KEY_SQL = (
        f"SELECT 'a-secret-' || n FROM generate_series(1, 2) n WHERE %(agency_id)s = '{harbour.agency.pk}'"
    )


def sql_result(value):
    def arrange(settings, harbour):
        settings.ULTRAVOX_API_KEY_SQL = (
            f"SELECT CASE WHEN %(agency_id)s = '{harbour.agency.pk}' THEN {value} ELSE NULL END"
        )

    return arrange


UNUSABLE = {
    "statement fails": (sql_that_raises, "ULTRAVOX_API_KEY_SQL failed for the agency (DataError, 22P02)"),
    "several rows": (several_rows, "ULTRAVOX_API_KEY_SQL returned several rows"),
    "line break": (sql_result("E'a-secret-\\n'"), "The result of ULTRAVOX_API_KEY_SQL is not a key"),
    "not ASCII": (sql_result("'a-secret-é'"), "The result of ULTRAVOX_API_KEY_SQL is not a key"),
    "binary": (sql_result("'a-secret-'::bytea"), "The result of ULTRAVOX_API_KEY_SQL is not a key"),
    "wrong CREDENTIALS_KEYS": (wrong_credentials_keys, "cannot be decrypted"),
    "no token": (not_even_a_token, "cannot be decrypted"),
    "no key": (no_key_at_all, "The agency has no Ultravox key"),
}


@pytest.mark.parametrize(("arrange", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_agency_whose_key_cannot_be_had_waits_with_a_reason_and_does_not_stop_the_others(
    two_accounts, settings, harbour, bluebell, caplog, arrange, problem
):
    arrange(settings, harbour)
    batches = [harbour.batch(queued=2), bluebell.batch(queued=2)]

    with caplog.at_level(logging.DEBUG):
        assert run_pass().calls_initiated == 2

    assert [attempts(batch) for batch in batches] == [
        [(ContactStatus.QUEUED, 0)] * 2,
        [(ContactStatus.IN_PROGRESS, 1)] * 2,
    ]
    assert problem in key_problem(harbour.agency.pk)
    assert key_problem(bluebell.agency.pk) is None
    lines = [line for line in caplog.messages if "outcome=waiting" in line]
    assert lines
    assert problem in lines[0]
    assert "a-secret-" not in caplog.text + key_problem(harbour.agency.pk)


@pytest.mark.parametrize("statement", ["SELECT no_such_function(%(agency_id)s)", "SELEKT", "SELECT %(agency)s", "%"])
def test_a_statement_that_never_works_makes_all_agencies_wait(two_accounts, settings, harbour, statement):
    settings.ULTRAVOX_API_KEY_SQL = statement

    assert place_next_call(harbour.batch(queued=1)) is DialOutcome.DEFERRED
    assert "ULTRAVOX_API_KEY_SQL failed for the agency" in key_problem(harbour.agency.pk)
    assert two_accounts.asked == []


def test_an_error_of_the_statement_shows_nothing_of_the_servers_message(two_accounts, settings, harbour):
    sql_that_raises(settings, harbour)

    with pytest.raises(CredentialsUnusable) as raised:
        get_provider(harbour.agency.pk)

    assert raised.value.__cause__ is None
    assert "a-secret-" not in str(raised.getrepr(style="native"))


@pytest.mark.parametrize("configured", [[], ["not-a-fernet-key"]], ids=["missing", "malformed"])
def test_without_usable_credentials_keys_an_agency_with_a_stored_key_waits(two_accounts, settings, harbour, configured):
    settings.CREDENTIALS_KEYS, settings.ULTRAVOX_API_KEY = configured, KEY
    expire()

    assert place_next_call(harbour.batch(queued=1)) is DialOutcome.DEFERRED
    assert "CREDENTIALS_KEYS" in key_problem(harbour.agency.pk)
    assert two_accounts.asked == []


def test_a_shared_key_that_cannot_be_a_key_is_never_sent(ultravox, settings, harbour, caplog):
    settings.ULTRAVOX_API_KEY = "a-secret-\r\nX-Other: 1"

    assert place_next_call(harbour.batch(queued=1)) is DialOutcome.DEFERRED
    assert key_problem(harbour.agency.pk).startswith("ULTRAVOX_API_KEY is not a key")
    assert "a-secret-" not in caplog.text


def test_the_sweep_settles_other_agencies_while_one_has_no_usable_key(two_accounts, harbour, bluebell):
    batches = [harbour.batch(queued=1), bluebell.batch(queued=1)]
    run_pass()
    for call in two_accounts.calls.values():
        two_accounts.end_call(call)
    for batch in batches:
        backdate_attempts(batch, timedelta(hours=2))
    not_even_a_token(None, harbour)
    expire()

    result = run_sweep()

    assert (result.ended, result.unclear) == (1, 1)
    assert [checked_counters(batch) for batch in batches] == [
        {"total_contacts": 1, "in_progress": 1},
        {"total_contacts": 1, "completed": 1},
    ]


def test_a_lost_database_is_not_remembered_as_a_problem_of_the_key(two_accounts, settings, harbour):
    settings.ULTRAVOX_API_KEY_SQL = "SELECT NULL WHERE %(agency_id)s IS NULL"
    with database_away(), pytest.raises(BatchReadFailed):
        get_provider(harbour.agency.pk)

    assert key_problem(harbour.agency.pk) is None
