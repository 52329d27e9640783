"""The published keys: rotation, and outages of every kind."""

import json
import logging
import threading
import time

import jwt
import pytest

from calls.api import jwks
from calls.api.jwks import KeySet
from calls.tests.support.supabase import SigningKey, supabase_project

OLD, NEW = SigningKey("ES256", kid="old"), SigningKey("RS256", kid="new")


@pytest.fixture
def supabase():
    with supabase_project() as served:
        served.publish(OLD)
        yield served


@pytest.fixture
def key_set(supabase):
    """Make a key set of the project with shorter times than in production."""
    key_sets = []

    def key_set(**times):
        keys = KeySet(
            f"{supabase.url}/auth/v1/.well-known/jwks.json",
            **{"lifetime": 600, "fetch_interval": 0.2, "fetch_timeout": 0.5} | times,
        )
        key_sets.append(keys)
        return keys

    yield key_set
    for keys in key_sets:
        keys.close()


def wait_until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def down(served):
    served.answer(503, "")


def html(served):
    served.answer(200, "<html>Maintenance</html>")


def empty(served):
    served.answer(200, '{"keys": []}')


def not_a_set(served):
    served.answer(200, '["keys"]')


def redirect(served):
    served.answer(302, "")


def slow(served):
    served.delay = 3


def dripping(served):
    served.drip = True


OUTAGES = [down, html, empty, not_a_set, redirect, slow, dripping]


def test_a_key_is_found_by_its_kid(key_set):
    key = key_set().find("old")

    assert (key.key_id, key.algorithm_name) == ("old", "ES256")
    assert jwt.decode(OLD.sign({"a": 1}), key.key, algorithms=["ES256"]) == {"a": 1}


def test_an_encryption_key_is_not_used(key_set, supabase):
    supabase.answer(200, json.dumps({"keys": [OLD.jwk | {"use": "enc"}, NEW.jwk]}))
    keys = key_set()

    assert (keys.find("old"), keys.find("new").key_id) == (None, "new")


def test_the_default_times_are_600_30_and_3_seconds():
    assert (jwks.LIFETIME, jwks.FETCH_INTERVAL, jwks.FETCH_TIMEOUT) == (600, 30, 3)


def test_the_set_is_fetched_once_for_many_tokens(key_set, supabase):
    keys = key_set()

    assert all(keys.find("old") for _ in range(20))
    assert len(supabase.requests) == 1


def test_threads_that_start_together_fetch_once(key_set, supabase):
    supabase.delay = 0.2
    keys, found = key_set(), []
    threads = [threading.Thread(target=lambda: found.append(keys.find("old"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len([key for key in found if key]) == 8
    assert len(supabase.requests) == 1


def test_an_unknown_kid_causes_a_fetch(key_set, supabase):
    keys = key_set(fetch_interval=0)
    keys.find("old")
    supabase.publish(OLD, NEW)

    assert keys.find("new").key_id == "new"


def test_unknown_kids_do_not_cause_fetches_more_often_than_the_interval(key_set, supabase):
    keys = key_set(fetch_interval=0.3)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert keys.find("forged") is None

    gaps = [later - earlier for earlier, later in zip(supabase.requests, supabase.requests[1:], strict=False)]
    assert 2 <= len(supabase.requests) <= 4
    # The times are those of arrival, and one request may take longer than the next.
    assert min(gaps) > 0.2


def test_failed_fetches_are_not_repeated_within_the_interval(key_set, supabase):
    down(supabase)
    keys = key_set(fetch_interval=0.3)
    for _ in range(50):
        assert keys.find("old") is None

    assert len(supabase.requests) == 1


def test_a_revoked_key_is_removed_when_the_set_is_refreshed(key_set, supabase):
    keys = key_set(lifetime=1.5, fetch_interval=0.2, fetch_timeout=0.5)
    keys.find("old")
    supabase.publish(NEW)

    wait_until(lambda: keys.find("old") is None, seconds=1.5)
    assert keys.find("new")


def test_the_set_is_refreshed_without_any_request(key_set, supabase):
    key_set(lifetime=1.4, fetch_interval=0.2, fetch_timeout=0.5).find("old")

    wait_until(lambda: len(supabase.requests) >= 3)


def test_a_request_with_a_known_key_does_not_wait_for_a_fetch(key_set, supabase):
    keys = key_set(fetch_timeout=3)
    keys.find("old")
    supabase.delay = 1
    time.sleep(0.25)
    waiting = threading.Thread(target=keys.find, args=["new"])
    waiting.start()
    wait_until(lambda: len(supabase.requests) == 2)

    started = time.monotonic()
    assert keys.find("old")

    assert time.monotonic() - started < 0.5
    assert waiting.is_alive()
    waiting.join()


def test_forged_tokens_make_at_most_two_threads_wait(key_set, supabase):
    keys = key_set(fetch_interval=0.1, fetch_timeout=4)
    keys.find("old")
    supabase.delay = 2
    time.sleep(0.15)
    threads = [threading.Thread(target=keys.find, args=["forged"]) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)

    assert sum(thread.is_alive() for thread in threads) == 2
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_any_set_no_key_is_found_and_the_timeout_holds(key_set, supabase, outage):
    outage(supabase)
    keys = key_set(fetch_timeout=0.5)

    started = time.monotonic()
    assert keys.find("old") is None

    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("outage", OUTAGES)
def test_the_last_good_set_stays_in_use_during_an_outage_with_a_warning(key_set, supabase, outage, caplog):
    keys = key_set(lifetime=1.3, fetch_interval=0.1, fetch_timeout=0.5)
    keys.find("old")
    outage(supabase)

    wait_until(lambda: "the last good set stays in use" in caplog.text)
    assert keys.find("old")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_new_set_is_used_after_an_outage(key_set, supabase):
    keys = key_set(lifetime=1.3, fetch_interval=0.1, fetch_timeout=0.5)
    keys.find("old")
    down(supabase)
    time.sleep(0.8)
    supabase.publish(NEW)

    wait_until(lambda: keys.find("new"))


def test_a_refused_connection_is_an_outage(key_set, supabase):
    keys = KeySet("http://127.0.0.1:9/nothing")

    assert keys.find("old") is None
