"""The agencies' accounts: which key each agency's calls are placed with, what happens without one, and deferrals."""

from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from django.db.models import F
from django.utils import timezone

from calls.audit import Source
from calls.dialler.accounts import defer_account, get_provider, key_problem
from calls.dialler.claims import claim_next_contact
from calls.dialler.passes import run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import run_sweep
from calls.exceptions import CredentialsUnusable
from calls.models import Agency, CallBatch
from calls.providers.simulated import SimulatedProvider
from calls.statuses import ContactStatus
from calls.tests.support.accounts import BLUEBELL_KEY, HARBOUR_KEY, attempts, expire, set_key
from calls.tests.support.concurrency import PausedThread
from calls.tests.support.factories import STAFF_ACTOR, backdate_attempts, checked_counters, plain_connection
from calls.tests.support.provider import KEY, Answer

pytestmark = pytest.mark.django_db(transaction=True)

SQL = "SELECT ultravox_key FROM keys_of_another_service WHERE agency_id = %(agency_id)s"


@pytest.fixture
def keys_of_another_service(settings):
    """Another service keeps the agencies' keys in its own table, which ULTRAVOX_API_KEY_SQL reads."""
    settings.ULTRAVOX_API_KEY_SQL = SQL
    with plain_connection() as plain:
        plain.execute("CREATE TABLE keys_of_another_service (agency_id uuid, ultravox_key text)")
        yield lambda tenant, key: plain.execute(
            "INSERT INTO keys_of_another_service VALUES (%s, %s)", [tenant.agency.pk, key]
        )
        plain.execute("DROP TABLE keys_of_another_service")


# Each agency's own key


def test_each_agencys_calls_are_placed_with_its_own_key(two_accounts, harbour, bluebell):
    batches = [harbour.batch(queued=3), bluebell.batch(queued=3)]

    assert run_pass().calls_initiated == 6
    assert {(asked.path, asked.key) for asked in two_accounts.asked} == {
        ("/api/agents/harbour-agent/calls", HARBOUR_KEY),
        ("/api/agents/bluebell-agent/calls", BLUEBELL_KEY),
    }
    assert [attempts(batch) for batch in batches] == [[(ContactStatus.IN_PROGRESS, 1)] * 3] * 2


def test_each_agencys_calls_are_looked_up_with_its_own_key(two_accounts, harbour, bluebell):
    batches = [harbour.batch(queued=1), bluebell.batch(queued=1)]
    run_pass()
    for call in two_accounts.calls.values():
        two_accounts.end_call(call)
    for batch in batches:
        backdate_attempts(batch, timedelta(hours=2))

    assert run_sweep().ended == 2
    assert [checked_counters(batch) for batch in batches] == [{"total_contacts": 1, "completed": 1}] * 2


def test_each_agencys_unrecorded_calls_are_found_with_its_own_key(two_accounts, harbour, bluebell):
    batches = [harbour.batch(queued=1), bluebell.batch(queued=1)]
    for batch, key in zip(batches, (HARBOUR_KEY, BLUEBELL_KEY), strict=True):
        contact = claim_next_contact(batch)
        call = two_accounts.add_call({"metadata": {"contact_id": str(contact.pk), "attempt": "1"}})
        two_accounts.keys[call["callId"]] = key
        backdate_attempts(batch, timedelta(minutes=5))

    assert run_sweep().recorded == 2


@pytest.mark.parametrize("wrong", ["the-key-of-no-account", HARBOUR_KEY])
def test_a_wrong_key_places_no_call_and_counts_no_attempt(two_accounts, harbour, bluebell, wrong):
    set_key(bluebell, wrong)
    batches = [harbour.batch(queued=2), bluebell.batch(queued=2)]

    run_pass()

    assert [attempts(batch) for batch in batches] == [
        [(ContactStatus.IN_PROGRESS, 1)] * 2,
        [(ContactStatus.QUEUED, 0)] * 2,
    ]
    assert len(two_accounts.calls) == 2


def test_agencies_without_a_key_of_their_own_use_the_shared_one(ultravox, encrypted, harbour, bluebell):
    set_key(harbour, HARBOUR_KEY)

    for tenant in (harbour, bluebell):
        place_next_call(tenant.batch(queued=1))

    assert [asked.key for asked in ultravox.asked] == [HARBOUR_KEY, KEY]


def test_the_statement_comes_before_the_stored_key_and_the_shared_one(
    ultravox, encrypted, keys_of_another_service, harbour, bluebell
):
    for tenant in (harbour, bluebell):
        set_key(tenant, "the-stored-key")
    keys_of_another_service(harbour, HARBOUR_KEY)
    keys_of_another_service(bluebell, None)

    for tenant in (harbour, bluebell):
        place_next_call(tenant.batch(queued=1))

    assert [asked.key for asked in ultravox.asked] == [HARBOUR_KEY, "the-stored-key"]


# Changed keys


def test_a_changed_key_is_used_after_a_minute_and_the_old_connections_are_closed(two_accounts, harbour):
    batch = harbour.batch(queued=3)
    place_next_call(batch)
    client = get_provider(batch.agency_id)._client
    set_key(harbour, "the-new-key-of-harbour")
    two_accounts.accounts["the-new-key-of-harbour"] = {"harbour-agent"}

    place_next_call(batch)
    expire()
    place_next_call(batch)

    assert [asked.key for asked in two_accounts.asked] == [HARBOUR_KEY, HARBOUR_KEY, "the-new-key-of-harbour"]
    assert client.is_closed


def test_a_key_that_the_provider_refuses_because_it_was_changed_defers_nothing(two_accounts, harbour):
    batch = harbour.batch(queued=1)
    get_provider(batch.agency_id)
    set_key(harbour, "the-new-key-of-harbour")
    two_accounts.accounts["the-new-key-of-harbour"] = two_accounts.accounts.pop(HARBOUR_KEY)

    assert place_next_call(batch) is DialOutcome.DEFERRED
    assert Agency.objects.get(pk=batch.agency_id).dial_after is None
    assert place_next_call(batch) is DialOutcome.PLACED
    assert attempts(batch) == [(ContactStatus.IN_PROGRESS, 1)]


def test_the_key_is_read_once_a_minute_for_all_calls_of_a_process(two_accounts, harbour, django_assert_num_queries):
    get_provider(harbour.agency.pk)
    with django_assert_num_queries(0):
        assert get_provider(harbour.agency.pk) is get_provider(harbour.agency.pk)
        assert key_problem(harbour.agency.pk) is None


def test_keys_encrypted_with_an_older_key_can_be_read(two_accounts, settings, harbour):
    settings.CREDENTIALS_KEYS = [Fernet.generate_key().decode(), *settings.CREDENTIALS_KEYS]
    expire()

    assert place_next_call(harbour.batch(queued=1)) is DialOutcome.PLACED


# Simulated calls


def test_calls_are_simulated_where_no_key_and_no_setting_for_keys_exists(harbour):
    assert isinstance(get_provider(harbour.agency.pk), SimulatedProvider)


def test_calls_of_an_agency_without_a_key_are_not_simulated_beside_an_agency_with_one(
    two_accounts, settings, harbour, bluebell
):
    bluebell.agency.remove_ultravox_key(actor=STAFF_ACTOR, source=Source.COMMAND)
    settings.CREDENTIALS_KEYS = []
    expire()

    with pytest.raises(CredentialsUnusable, match="has no Ultravox key"):
        get_provider(bluebell.agency.pk)


@pytest.mark.parametrize("setting", ["ULTRAVOX_API_KEY_SQL", "CREDENTIALS_KEYS"])
def test_calls_are_not_simulated_where_a_setting_for_keys_exists(settings, harbour, setting):
    value = {"ULTRAVOX_API_KEY_SQL": "SELECT NULL WHERE %(agency_id)s IS NULL", "CREDENTIALS_KEYS": ["x"]}[setting]
    setattr(settings, setting, value)

    with pytest.raises(CredentialsUnusable, match="has no Ultravox key"):
        get_provider(harbour.agency.pk)


# Accounts that take no calls


def deferred_for(tenant):
    """Return the seconds until calls of the agency may start, or None."""
    tenant.agency.refresh_from_db()
    until = tenant.agency.dial_after
    return until and round((until - timezone.now()).total_seconds())


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_account_defers_its_agency_and_no_other(two_accounts, harbour, bluebell, status):
    batch = harbour.batch(queued=1)
    get_provider(bluebell.agency.pk)
    two_accounts.next_answers.append(Answer(status, headers={"Retry-After": "100"}, places_call=False))

    assert place_next_call(batch) is DialOutcome.DEFERRED
    assert 95 <= deferred_for(harbour) <= 100
    assert deferred_for(bluebell) is None
    assert CallBatch.objects.get(pk=batch.pk).dial_after is None
    assert attempts(batch) == [(ContactStatus.QUEUED, 0)]


def test_a_busy_shared_account_defers_all_agencies_that_are_known_to_use_it(ultravox, encrypted, harbour, bluebell):
    set_key(bluebell, BLUEBELL_KEY)
    third, unknown = (type(harbour).create(slug) for slug in ("third", "unknown"))
    for tenant in (harbour, bluebell, third):
        get_provider(tenant.agency.pk)
    ultravox.default_answer = Answer(429, headers={"Retry-After": "100"}, places_call=False)

    place_next_call(harbour.batch(queued=1))

    assert [deferred_for(tenant) is not None for tenant in (harbour, third, bluebell, unknown)] == [
        True,
        True,
        False,
        False,
    ]


def test_no_call_is_placed_for_any_batch_of_the_agency_until_its_wait_is_over(ultravox, harbour):
    ultravox.next_answers.append(Answer(503, headers={"Retry-After": "7"}, places_call=False))
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)

    assert place_next_call(first) is DialOutcome.DEFERRED
    assert [place_next_call(batch) for batch in (first, second)] == [DialOutcome.NOTHING_CLAIMED] * 2
    Agency.objects.update(dial_after=F("dial_after") - timedelta(seconds=7))
    assert [place_next_call(batch) for batch in (first, second)] == [DialOutcome.PLACED] * 2


def test_a_shorter_wait_does_not_end_a_longer_one(ultravox, harbour):
    provider = get_provider(harbour.agency.pk)

    assert defer_account(harbour.agency.pk, timedelta(seconds=500), provider=provider)
    assert defer_account(harbour.agency.pk, timedelta(seconds=5), provider=provider)

    assert 490 <= deferred_for(harbour) <= 500


def test_the_claim_is_released_even_if_the_agency_cannot_be_deferred(ultravox, harbour, caplog):
    ultravox.default_answer = Answer(429, places_call=False)
    batch = harbour.batch(queued=1)
    with plain_connection() as other, other.transaction():
        other.execute("SELECT FROM agencies FOR SHARE")
        dialling = PausedThread(lambda: place_next_call(batch))
        dialling.start()

        assert dialling.release() is DialOutcome.DEFERRED

    assert attempts(batch) == [(ContactStatus.QUEUED, 0)]
    assert "no pause: agency_update_failed" in caplog.text


def test_no_batch_is_locked_while_an_account_is_deferred(ultravox, harbour):
    ultravox.default_answer = Answer(429, places_call=False)
    batch = harbour.batch(queued=1)
    with (
        PausedThread(lambda: place_next_call(batch), after='UPDATE "agencies"') as dialling,
        plain_connection() as other,
    ):
        other.execute("SELECT FROM call_batches FOR UPDATE NOWAIT")

    assert dialling.outcome is DialOutcome.DEFERRED
