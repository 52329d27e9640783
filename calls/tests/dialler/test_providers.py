"""What is sent to the provider, and what each of its answers means, over HTTP."""

import contextlib
import logging
import socket
import time
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from django.utils import timezone

from calls import providers
from calls.providers.base import CallRequest, PlacementRefused, PlacementUnclear, ProviderBusy, ProviderUnavailable
from calls.providers.simulated import SimulatedProvider
from calls.providers.ultravox import UltravoxProvider
from calls.tests.support.provider import KEY, Answer

CONTACT = uuid.uuid4()
ORDER = CallRequest(
    agent_id="agent-1",
    to="+12125550100",
    caller_id="+12125550199",
    metadata={"contact_id": str(CONTACT), "batch_id": "b", "attempt": "1", "policy": "A-17"},
)


@pytest.fixture
def at():
    """The provider at an address."""
    with ExitStack() as closing:
        yield lambda url: closing.enter_context(contextlib.closing(UltravoxProvider(url, KEY, timeout=0.5)))


@pytest.fixture
def ultravox(provider, at):
    return at(provider.url)


def minutes_ago(minutes):
    return timezone.now() - timedelta(minutes=minutes)


def find(ultravox, attempt=1, since=None):
    return ultravox.find(CONTACT, attempt, since=since or minutes_ago(1))


# What is sent


def test_a_call_is_asked_for_in_the_providers_own_words(provider, ultravox):
    call_id = ultravox.place(ORDER)

    (asked,) = provider.asked
    assert asked.path == "/api/agents/agent-1/calls"
    assert asked.key == KEY
    assert asked.body == {
        "medium": {"telnyx": {"outgoing": {"to": "+12125550100", "from": "+12125550199"}}},
        "metadata": {"contact_id": str(CONTACT), "batch_id": "b", "attempt": "1", "policy": "A-17"},
        "firstSpeakerSettings": {"agent": {}},
    }
    assert list(provider.calls) == [call_id]


def test_an_agent_with_a_first_sentence_says_it(provider, ultravox):
    ultravox.place(CallRequest(**{**vars(ORDER), "first_speaker_text": "Good morning!"}))

    assert provider.asked[0].body["firstSpeakerSettings"] == {"agent": {"text": "Good morning!"}}


def test_an_agents_id_is_a_part_of_the_path_whatever_it_is(provider, ultravox):
    ultravox.place(CallRequest(**{**vars(ORDER), "agent_id": "../a b?c"}))

    assert provider.asked[0].path == "/api/agents/..%2Fa%20b%3Fc/calls"


def test_one_connection_serves_many_calls(provider, ultravox, monkeypatch):
    connections = []
    accept = provider.get_request
    monkeypatch.setattr(provider, "get_request", lambda: connections.append(1) or accept())

    for _ in range(5):
        ultravox.place(ORDER)

    assert len(connections) == 1


# What the answer means


@pytest.mark.parametrize("status", [400, 404, 409, 422, 302])
def test_what_the_provider_refuses_is_refused(provider, ultravox, status):
    provider.otherwise = Answer(status, places=False)

    with pytest.raises(PlacementRefused, match=f"HTTP {status}"):
        ultravox.place(ORDER)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 5),
        (None, 60),
        ("", 60),
        ("soon", 60),
        ("-5", 60),
        ("99999999999999999999", 86_400),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 60),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", 60),
        (timedelta(seconds=600), 600),
        (timedelta(seconds=-600), 5),
    ],
)
def test_a_provider_that_is_busy_is_left_alone_for_as_long_as_it_asks(provider, ultravox, status, header, seconds):
    if isinstance(header, timedelta):
        header = format_datetime(datetime.now(UTC) + header, usegmt=True)
    provider.otherwise = Answer(status, headers={} if header is None else {"Retry-After": header}, places=False)

    with pytest.raises(ProviderBusy, match=f"HTTP {status}") as busy:
        ultravox.place(ORDER)

    # A date is only exact to the second, and the request takes its time.
    assert seconds - 10 * (seconds == 600) <= busy.value.pause.total_seconds() <= seconds


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_wrong_key_or_an_empty_account_is_nobodys_attempt(provider, ultravox, status):
    provider.otherwise = Answer(status, places=False)

    with pytest.raises(ProviderBusy, match="check ULTRAVOX_API_KEY"):
        ultravox.place(ORDER)


def test_an_address_that_leads_elsewhere_is_nobodys_attempt(provider, ultravox):
    provider.otherwise = Answer(308, headers={"Location": "https://elsewhere.example"}, places=False)

    with pytest.raises(ProviderBusy, match="check ULTRAVOX_API_URL"):
        ultravox.place(ORDER)


def test_what_took_too_long_to_reach_the_provider_is_not_sent(provider, ultravox, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(0.6) or look_up(*args, **kwargs))

    with pytest.raises(ProviderBusy, match="too long"):
        ultravox.place(ORDER)

    assert provider.asked == []
    monkeypatch.undo()
    assert ultravox.place(ORDER) in provider.calls


def test_a_provider_that_cannot_be_reached_is_busy(at):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = at(f"http://127.0.0.1:{free.getsockname()[1]}")

        with pytest.raises(ProviderBusy, match="ConnectError"):
            nobody.place(ORDER)


@pytest.mark.parametrize("url", ["", "ultravox.example"])
def test_an_address_that_is_none_is_a_provider_that_cannot_be_reached(at, url):
    with pytest.raises(ProviderBusy):
        at(url).place(ORDER)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(408),
        Answer(500),
        Answer(502),
        Answer(504),
        Answer(201, body="{}"),
        Answer(201, body="[]"),
        Answer(201, body='{"callId": ""}'),
        Answer(201, body='{"callId": 7}'),
        Answer(201, body='{"callId": "\\ud800"}'),
        Answer(201, body='{"callId": "%s"}' % ("7" * 256)),
        Answer(201, body="<html>"),
        Answer(201, body='{"callId": "' + "[" * 5000),
        Answer(201, after=1.0),
        Answer(hangs_up=True),
    ],
    ids=[
        *("408", "500", "502", "504", "no id", "a list", "empty id", "a number", "no character", "endless"),
        *("html", "half", "too late", "hangs up"),
    ],
)
def test_an_answer_that_tells_nothing_is_unclear_and_never_asked_for_twice(provider, ultravox, answer):
    provider.otherwise = answer

    with pytest.raises(PlacementUnclear):
        ultravox.place(ORDER)

    time.sleep(0.2)
    assert len(provider.asked) == 1


# Is there a call?


def test_the_call_of_an_attempt_is_found_by_its_metadata(provider, ultravox):
    call_id = ultravox.place(ORDER)

    assert find(ultravox) == call_id
    assert find(ultravox, attempt=2) is None
    assert ultravox.find(uuid.uuid4(), 1, since=minutes_ago(1)) is None


def test_a_call_that_another_dialler_has_placed_is_found_by_its_time(provider, ultravox):
    call = provider.place({"metadata": {"contact_id": str(CONTACT)}})

    assert find(ultravox, attempt=2) == call["callId"]
    # As custom data of the contact.
    call["metadata"]["attempt"] = "first"
    assert find(ultravox, attempt=2) == call["callId"]
    assert find(ultravox, since=timezone.now() + timedelta(minutes=5)) is None


def test_a_list_that_is_not_filtered_is_not_believed(provider, ultravox):
    provider.place({"metadata": {"contact_id": "somebody else"}})
    provider.lists_everything = True

    with pytest.raises(ProviderUnavailable, match="not filtered"):
        find(ultravox)


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"results": [7]}',
        "<html>",
        '{"results": [{"metadata": {}}]}',
        '{"results": [], "next": "http://["}',
        '{"results": [], "next": "http://x:abc/"}',
        '{"results": [], "next": "\\u0000"}',
    ],
)
def test_a_list_that_is_none_is_not_believed(provider, ultravox, monkeypatch, body):
    monkeypatch.setattr(provider, "listed", body)

    with pytest.raises(ProviderUnavailable):
        find(ultravox)


def test_a_list_of_several_pages_is_read_to_its_end(provider, ultravox):
    earlier = [provider.place({"metadata": {"contact_id": str(CONTACT), "attempt": "9"}}) for _ in range(5)]
    call_id = ultravox.place(ORDER)
    provider.page_size = 2

    assert find(ultravox) == call_id
    assert len(earlier) == 5


@pytest.mark.parametrize("question", [find, lambda nobody: nobody.look_up("7")])
def test_a_provider_that_does_not_answer_is_not_taken_for_one_without_the_call(at, question):
    with pytest.raises(ProviderUnavailable):
        question(at("http://127.0.0.1:9"))


def test_a_call_is_looked_up_by_its_id(provider, ultravox):
    call_id = ultravox.place(ORDER)

    assert ultravox.look_up(call_id)["callId"] == call_id
    assert ultravox.look_up("no/such") is None


# The simulated one


def test_outside_of_a_demo_the_simulated_one_cannot_tell_of_a_call_that_it_does_not_know(settings):
    simulated = SimulatedProvider()
    settings.DEBUG = True
    assert find(simulated) is None
    settings.DEBUG = False

    with pytest.raises(ProviderUnavailable, match="ULTRAVOX_API_KEY"):
        find(simulated)


def test_without_a_key_calls_are_simulated_and_the_log_says_so(caplog):
    providers._create_provider.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert isinstance(providers.get_provider(), SimulatedProvider)

    assert "nobody is called" in caplog.text


def test_with_a_key_they_are_not(settings):
    settings.ULTRAVOX_API_KEY, settings.ULTRAVOX_API_URL = KEY, "https://ultravox.example"
    providers._create_provider.cache_clear()
    ultravox = providers.get_provider()
    providers._create_provider.cache_clear()

    assert isinstance(ultravox, UltravoxProvider)
    ultravox.close()


def test_a_simulated_call_is_over_after_20_seconds_and_one_in_five_is_not_answered(monkeypatch):
    simulated = SimulatedProvider()
    calls = [simulated.place(ORDER) for _ in range(500)]
    assert simulated.look_up(calls[0])["ended"] is None

    later = timezone.now() + timedelta(seconds=20)
    monkeypatch.setattr(timezone, "now", lambda: later)
    ended = [simulated.look_up(call) for call in calls]

    assert all(call["ended"] for call in ended)
    assert 50 <= sum(call["endReason"] == "unjoined" for call in ended) <= 150
    assert all((call["joined"] is None) is (call["endReason"] == "unjoined") for call in ended)
    assert simulated.look_up("a-real-one") is None
