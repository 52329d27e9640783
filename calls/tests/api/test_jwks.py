"""The published keys: rotation, and outages of every kind."""

import gzip
import json
import logging
import socket
import threading
import time

import jwt
import pytest

from calls.api import jwks
from calls.api.jwks import KeySet
from calls.tests.support.supabase import SigningKey, key_set_of, supabase_project

pytestmark = pytest.mark.not_adopted

OLD, NEW, RSA = SigningKey("ES256", kid="old"), SigningKey("RS256", kid="new"), SigningKey("RS256")
PATH = "/auth/v1/.well-known/jwks.json"
MEGABYTE = 1024 * 1024


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
            f"{supabase.url}{PATH}",
            **{"lifetime": 600, "fetch_interval": 0.2, "fetch_timeout": 5} | times,
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


def not_an_object(served):
    served.answer(200, '["keys"]')


def without_keys(served):
    served.answer(200, "{}")


def keys_not_an_array(served):
    served.answer(200, '{"keys": {"kid": "new"}}')


def nested_too_deeply(served):
    served.answer(200, '{"keys": ' + "[" * 100_000 + "]" * 100_000 + "}")


def not_utf_8(served):
    served.answer(200, b'{"keys": [], "\xff": 1}')


def not_the_status_200(served):
    served.answer(203, key_set_of(NEW))


def redirect(served):
    served.answer(302, key_set_of(NEW), Location=f"{served.url}/elsewhere")


def compressed(served):
    served.answer(200, gzip.compress(key_set_of(NEW).encode()), **{"Content-Encoding": "gzip"})


def more_than_1_mb(served):
    served.answer(200, key_set_of(NEW).ljust(MEGABYTE + 1))


def incomplete(served):
    served.answer(200, key_set_of(NEW), **{"Content-Length": "100000"})


def not_http(served):
    served.answer_without_end(b"\x00", b"\x00", 0.01)


def slow(served):
    served.delay = 3


def dripping(served):
    served.drip = True


OUTAGES = [
    down,
    html,
    not_an_object,
    without_keys,
    keys_not_an_array,
    nested_too_deeply,
    not_utf_8,
    not_the_status_200,
    redirect,
    compressed,
    more_than_1_mb,
    incomplete,
    not_http,
    slow,
    dripping,
]

ENTRIES_THAT_CANNOT_BE_USED = {
    "not an object": "old",
    "null": None,
    "a list": [OLD.jwk],
    "empty": {},
    "no kid": {name: value for name, value in OLD.jwk.items() if name != "kid"},
    "kid is empty": OLD.jwk | {"kid": ""},
    **{f"kid is {kid!r}": OLD.jwk | {"kid": kid} for kid in (None, 7, ["old"], {"old": 1})},
    **{f"alg is {alg!r}": OLD.jwk | {"alg": alg} for alg in ("none", "HS256", "ES384", "RS256", "", 7, ["ES256"], {})},
    **{f"use is {use!r}": OLD.jwk | {"use": use} for use in ("enc", "", 7, ["sig"], {})},
    **{f"kty is {kty!r}": OLD.jwk | {"kty": kty} for kty in (None, "RSA", "XYZ", 7, ["EC"], {})},
    **{f"crv is {crv!r}": OLD.jwk | {"crv": crv} for crv in (None, "P-384", "X-1", 7, ["P-256"], {})},
    **{f"x is {x!r}": OLD.jwk | {"x": x} for x in (None, "", "AA", "*", 7, ["AA"], {})},
    "x is not on the curve": OLD.jwk | {"x": OLD.jwk["y"]},
    "x is very long": OLD.jwk | {"x": "A" * 500_000},
    "a private EC key": OLD.private_jwk,
    "a private RSA key": RSA.private_jwk | {"kid": "old"},
    "a private RSA key with other values": RSA.private_jwk | {"kid": "old", "d": 7},
    "RSA for another algorithm": RSA.jwk | {"kid": "old", "alg": "RS512"},
    "RSA with a short modulus": RSA.jwk | {"kid": "old", "n": RSA.jwk["n"][:86]},
    "RSA with an exponent of 1": RSA.jwk | {"kid": "old", "e": "AQ"},
    "symmetrical": {"kty": "oct", "k": "c2VjcmV0", "kid": "old"},
    "symmetrical, for ES256": {"kty": "oct", "k": "c2VjcmV0", "kid": "old", "alg": "ES256"},
    "Ed25519": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "old"},
    "P-384": SigningKey("ES384", kid="old").jwk,
    "nested": OLD.jwk | {"kid": json.loads("[" * 500 + "]" * 500)},
}


@pytest.mark.parametrize("entry", ENTRIES_THAT_CANNOT_BE_USED)
def test_an_entry_that_cannot_be_used_is_skipped_with_a_warning(key_set, supabase, entry, caplog):
    supabase.publish(ENTRIES_THAT_CANNOT_BE_USED[entry], NEW)
    keys = key_set()

    assert (keys.find("old"), keys.find("new").key_id) == (None, "new")
    assert caplog.messages == [f"key set at {supabase.url}{PATH}: 1 of 2 keys cannot be used"]


def test_an_integer_with_thousands_of_digits_makes_only_its_entry_unusable(key_set, supabase):
    supabase.answer(200, key_set_of(OLD.jwk | {"x": 0}, NEW).replace('"x": 0', f'"x": {"9" * 5000}'))
    keys = key_set()

    assert (keys.find("old"), keys.find("new").key_id) == (None, "new")


def test_a_key_is_found_by_its_kid(key_set):
    key = key_set().find("old")

    assert (key.key_id, key.algorithm_name) == ("old", "ES256")
    assert jwt.decode(OLD.sign({"a": 1}), key.key, algorithms=["ES256"]) == {"a": 1}


def test_a_key_may_omit_its_algorithm_and_use(key_set, supabase):
    supabase.publish(*({**key.jwk, "alg": None, "use": None} for key in (OLD, NEW)))
    keys = key_set()

    assert [keys.find(kid).algorithm_name for kid in ("old", "new")] == ["ES256", "RS256"]


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
    keys = key_set(lifetime=3.5, fetch_interval=0.2, fetch_timeout=1.5)
    keys.find("old")
    supabase.publish(NEW)

    wait_until(lambda: keys.find("old") is None, seconds=1.5)
    assert keys.find("new")


def test_the_set_is_refreshed_without_any_request(key_set, supabase):
    key_set(lifetime=3.4, fetch_interval=0.2, fetch_timeout=1.5).find("old")

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


@pytest.mark.parametrize("entries", [[], [OLD.private_jwk], [7]], ids=["empty", "private", "not an object"])
def test_a_set_without_a_usable_key_replaces_the_old_set(key_set, supabase, entries, caplog):
    keys = key_set(fetch_interval=0)
    keys.find("old")
    supabase.publish(*entries)

    assert keys.find("forged") is None
    assert (keys.find("old"), "no key set" in caplog.text) == (None, False)


def test_with_an_empty_set_forged_tokens_make_at_most_two_threads_wait(key_set, supabase):
    supabase.publish()
    keys = key_set(fetch_interval=0, fetch_timeout=4)
    keys.find("forged")
    supabase.delay = 2
    threads = [threading.Thread(target=keys.find, args=["forged"]) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(supabase.requests) == 2)

    wait_until(lambda: sum(thread.is_alive() for thread in threads) == 2, seconds=1)
    for thread in threads:
        thread.join()


def test_a_key_set_may_have_1_mb(key_set, supabase):
    supabase.answer(200, key_set_of(OLD).ljust(MEGABYTE))

    assert key_set().find("old")


def test_a_download_of_more_than_1_mb_is_ended_before_the_timeout(key_set, supabase):
    supabase.answer_without_end(b"\r\n", b" " * 65_536, 0.001)
    threads = set(threading.enumerate())
    waiting = threading.Thread(target=key_set(fetch_timeout=60).find, args=["old"])
    waiting.start()

    assert supabase.disconnected.wait(10)
    wait_until(lambda: set(threading.enumerate()) <= threads)


@pytest.mark.parametrize(
    ("start", "repeated"), [(b"\r\n", b" "), (b"X-Header: ", b"x"), (b"", b"X-Header: x\r\n")], ids=ascii
)
def test_a_slow_download_without_end_is_ended_at_the_timeout(key_set, supabase, start, repeated):
    supabase.answer_without_end(start, repeated, 0.02)
    threads = set(threading.enumerate())

    assert key_set(fetch_timeout=0.5).find("old") is None

    assert supabase.disconnected.wait(3)
    wait_until(lambda: set(threading.enumerate()) <= threads)


def test_a_dns_lookup_that_takes_longer_than_the_timeout_is_not_waited_for(monkeypatch):
    may_end, ended = threading.Event(), threading.Event()

    def look_up(*args, **kwargs):
        may_end.wait(10)
        ended.set()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    assert KeySet("https://project.supabase.co/keys", fetch_timeout=0.3).find("old") is None

    assert not ended.is_set()
    may_end.set()
    assert ended.wait(5)


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_any_set_no_key_is_found_and_the_timeout_holds(key_set, supabase, outage):
    outage(supabase)
    keys = key_set(fetch_timeout=0.5)

    started = time.monotonic()
    assert keys.find("old") is None

    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("outage", OUTAGES)
def test_the_last_good_set_stays_in_use_during_an_outage_with_a_warning(key_set, supabase, outage, caplog):
    keys = key_set(lifetime=3.3, fetch_interval=0.1, fetch_timeout=1.5)
    keys.find("old")
    outage(supabase)

    wait_until(lambda: "the last good set stays in use" in caplog.text)
    assert keys.find("old")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_new_set_is_used_after_an_outage(key_set, supabase):
    keys = key_set(lifetime=3.3, fetch_interval=0.1, fetch_timeout=1.5)
    keys.find("old")
    down(supabase)
    time.sleep(0.8)
    supabase.publish(NEW)

    wait_until(lambda: keys.find("new"))


def test_a_refused_connection_is_an_outage(key_set, supabase):
    keys = KeySet("http://127.0.0.1:9/nothing")

    assert keys.find("old") is None
