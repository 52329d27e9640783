"""The Ultravox client (what it sends and how it reads each answer) and the simulated provider."""

import contextlib
import gc
import logging
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from django.utils import timezone

from calls import providers
from calls.providers.base import (
    AllCallsRefused,
    CallRequest,
    PlacementRefused,
    PlacementUnclear,
    ProviderBusy,
    ProviderUnavailable,
)
from calls.providers.simulated import SimulatedProvider
from calls.providers.ultravox import UltravoxProvider
from calls.tests.support.concurrency import until
from calls.tests.support.provider import KEY, Answer

CONTACT = uuid.uuid4()
REQUEST = CallRequest(
    agent_id="agent-1",
    to="+12125550100",
    caller_id="+12125550199",
    metadata={"contact_id": str(CONTACT), "batch_id": "b", "attempt": "1", "policy": "A-17"},
)


@pytest.fixture
def provider_at():
    """Return a function that creates a client for a URL."""
    with ExitStack() as closing:
        yield lambda url: closing.enter_context(contextlib.closing(UltravoxProvider(url, KEY, timeout=0.5)))


@pytest.fixture
def ultravox(provider, provider_at):
    """A client of the fake provider."""
    return provider_at(provider.url)


def minutes_ago(minutes):
    return timezone.now() - timedelta(minutes=minutes)


def find(ultravox, attempt=1, since=None):
    return ultravox.find(CONTACT, attempt, since=since or minutes_ago(1))


# The request


def test_a_request_has_the_form_that_the_provider_expects(provider, ultravox):
    call_id = ultravox.place(REQUEST)

    (asked,) = provider.asked
    assert asked.path == "/api/agents/agent-1/calls"
    assert asked.key == KEY
    assert asked.body == {
        "medium": {"telnyx": {"outgoing": {"to": "+12125550100", "from": "+12125550199"}}},
        "metadata": {"contact_id": str(CONTACT), "batch_id": "b", "attempt": "1", "policy": "A-17"},
    }
    assert list(provider.calls) == [call_id]


def test_the_first_sentence_of_an_agent_is_sent(provider, ultravox):
    ultravox.place(CallRequest(**{**vars(REQUEST), "first_speaker_text": "Good morning!"}))

    assert provider.asked[0].body["firstSpeakerSettings"] == {"agent": {"text": "Good morning!"}}


@pytest.mark.parametrize("text", [None, "", "  ", "\t\n"])
def test_without_a_first_sentence_the_settings_of_the_agent_itself_apply(provider, ultravox, text):
    ultravox.place(CallRequest(**{**vars(REQUEST), "first_speaker_text": text}))

    assert "firstSpeakerSettings" not in provider.asked[0].body


def test_keys_that_the_provider_reserves_are_not_sent_and_only_their_number_is_logged(provider, ultravox, caplog):
    reserved = {"ultravox.+12125550100": "s3cret", "Ultravox.sip": "x"}

    ultravox.place(CallRequest(**{**vars(REQUEST), "metadata": {**REQUEST.metadata, **reserved, "ultravox": "sent"}}))

    assert provider.asked[0].metadata == {**REQUEST.metadata, "ultravox": "sent"}
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"contact={CONTACT}: keys of custom_data not sent, because they begin with ultravox.: 2"
    ]


def test_the_agent_id_is_quoted_in_the_path(provider, ultravox):
    ultravox.place(CallRequest(**{**vars(REQUEST), "agent_id": "../a b?c"}))

    assert provider.asked[0].path == "/api/agents/..%2Fa%20b%3Fc/calls"


def test_one_connection_serves_many_calls(provider, ultravox, monkeypatch):
    connections = []
    accept = provider.get_request
    monkeypatch.setattr(provider, "get_request", lambda: connections.append(1) or accept())

    for _ in range(5):
        ultravox.place(REQUEST)

    assert len(connections) == 1


# The answer


@pytest.mark.parametrize("status", [400, 409, 422, 302])
def test_a_rejection_of_this_call_raises_placement_refused(provider, ultravox, status):
    provider.default_answer = Answer(status, places_call=False)

    with pytest.raises(PlacementRefused, match=f"HTTP {status}"):
        ultravox.place(REQUEST)


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
        ("1_0", 60),
        ("\u00b2", 60),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 60),
        ("Mon, 01 Jan 2026 00:00:00 +99999999999999999999", 60),
        (timedelta(seconds=600), 600),
        (timedelta(seconds=-600), 5),
    ],
)
def test_a_busy_answer_pauses_for_the_time_in_retry_after(provider, ultravox, status, header, seconds):
    if isinstance(header, timedelta):
        header = format_datetime(datetime.now(UTC) + header, usegmt=True)
    provider.default_answer = Answer(
        status, headers={} if header is None else {"Retry-After": header}, places_call=False
    )

    with pytest.raises(ProviderBusy, match=f"HTTP {status}") as busy:
        ultravox.place(REQUEST)

    # A date has no fraction of a second, and the request takes some time.
    assert seconds - 10 * (seconds == 600) <= busy.value.pause.total_seconds() <= seconds


@pytest.mark.parametrize(("status", "unless_others_accepted"), [(401, False), (402, False), (403, True), (404, False)])
def test_a_wrong_key_an_empty_account_and_a_deleted_agent_concern_all_calls(
    provider, ultravox, status, unless_others_accepted
):
    provider.default_answer = Answer(status, places_call=False)

    with pytest.raises(AllCallsRefused, match=f"HTTP {status}") as refused:
        ultravox.place(REQUEST)
    assert refused.value.unless_others_accepted is unless_others_accepted


def test_a_redirect_counts_as_busy(provider, ultravox):
    provider.default_answer = Answer(308, headers={"Location": "https://elsewhere.example"}, places_call=False)

    with pytest.raises(ProviderBusy, match="check ULTRAVOX_API_URL"):
        ultravox.place(REQUEST)


def test_no_request_is_sent_when_connecting_took_longer_than_the_timeout(provider, ultravox, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(0.6) or look_up(*args, **kwargs))

    with pytest.raises(ProviderBusy, match="too long"):
        ultravox.place(REQUEST)

    assert provider.asked == []
    monkeypatch.undo()
    assert ultravox.place(REQUEST) in provider.calls


def test_an_unreachable_provider_counts_as_busy(provider_at):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unreachable = provider_at(f"http://127.0.0.1:{free.getsockname()[1]}")

        with pytest.raises(ProviderBusy, match="ConnectError"):
            unreachable.place(REQUEST)


@pytest.mark.parametrize("url", ["", "ultravox.example"])
def test_an_invalid_url_counts_as_busy(provider_at, url):
    with pytest.raises(ProviderBusy):
        provider_at(url).place(REQUEST)


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
        Answer(201, delay=1.0),
        Answer(drops_connection=True),
    ],
    ids=[
        *("408", "500", "502", "504", "no id", "list", "empty id", "number", "lone surrogate", "long id"),
        *("html", "cut off", "too late", "connection dropped"),
    ],
)
def test_after_an_unclear_answer_the_request_is_not_repeated(provider, ultravox, answer):
    provider.default_answer = answer

    with pytest.raises(PlacementUnclear):
        ultravox.place(REQUEST)

    time.sleep(0.2)
    assert len(provider.asked) == 1


# Finding a call


def test_the_call_of_an_attempt_is_found_by_its_metadata(provider, ultravox):
    call_id = ultravox.place(REQUEST)

    assert find(ultravox) == call_id
    assert find(ultravox, attempt=2) is None
    assert ultravox.find(uuid.uuid4(), 1, since=minutes_ago(1)) is None


def test_a_call_of_another_dialler_without_an_attempt_number_is_found_by_its_time(provider, ultravox):
    call = provider.add_call({"metadata": {"contact_id": str(CONTACT)}})

    assert find(ultravox, attempt=2) == call["callId"]
    # An ``attempt`` that is not a number comes from the contact's custom data.
    for attempt in ("first", "", " 2", "1_0", "\u0662", "\u00b2", 2, None):
        call["metadata"]["attempt"] = attempt
        assert find(ultravox, attempt=2) == call["callId"]
    assert find(ultravox, since=timezone.now() + timedelta(minutes=5)) is None


def test_a_list_that_is_not_filtered_is_rejected(provider, ultravox):
    provider.add_call({"metadata": {"contact_id": "another contact"}})
    provider.ignores_filter = True

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
def test_an_invalid_list_is_rejected(provider, ultravox, monkeypatch, body):
    monkeypatch.setattr(provider, "listed", body)

    with pytest.raises(ProviderUnavailable):
        find(ultravox)


def test_all_pages_of_a_list_are_read(provider, ultravox):
    other_attempts = [provider.add_call({"metadata": {"contact_id": str(CONTACT), "attempt": "9"}}) for _ in range(5)]
    call_id = ultravox.place(REQUEST)
    provider.page_size = 2

    assert find(ultravox) == call_id
    assert len(other_attempts) == 5


@pytest.mark.parametrize("question", [find, lambda unreachable: unreachable.look_up("7")])
def test_a_provider_that_does_not_answer_is_unavailable(provider_at, question):
    with pytest.raises(ProviderUnavailable):
        question(provider_at("http://127.0.0.1:9"))


def test_a_call_is_looked_up_by_its_id(provider, ultravox):
    call_id = ultravox.place(REQUEST)

    assert ultravox.look_up(call_id)["callId"] == call_id
    assert ultravox.look_up("no/such") is None


# One provider for each key


@pytest.fixture
def at_fake(provider, settings):
    settings.ULTRAVOX_API_URL = provider.url


def test_the_same_key_gets_the_same_provider_and_another_key_another(at_fake):
    first, again, other = (providers.provider_for(key) for key in ("key-one", "key-one", "key-two"))

    assert first is again
    assert first is not other
    assert isinstance(other, UltravoxProvider)


def test_a_provider_that_is_no_longer_used_closes_its_connections(at_fake):
    ultravox = providers.provider_for("key-one")
    ultravox.place(REQUEST)
    client = ultravox._client
    assert not client.is_closed

    del ultravox

    assert client.is_closed
    assert client not in [provider._client for provider in providers._PROVIDERS.values()]


def test_a_provider_is_not_closed_while_a_request_is_in_progress(at_fake, provider):
    provider.may_answer.clear()
    with ThreadPoolExecutor(1) as threads:
        placing = threads.submit(lambda: providers.provider_for("key-one").place(REQUEST))
        until(lambda: provider.asked)
        gc.collect()
        provider.may_answer.set()

        assert placing.result() in provider.calls


def test_no_repr_and_no_log_line_shows_the_key(provider, provider_at, caplog):
    with caplog.at_level(logging.DEBUG):
        ultravox = provider_at(provider.url)
        ultravox.place(REQUEST)

    shown = [caplog.text, repr(ultravox), repr(vars(ultravox)), repr(ultravox._client.headers)]
    assert KEY not in " ".join([*shown, repr(vars(ultravox._client)), repr(dict(providers._PROVIDERS))])


# The simulated provider


def test_the_simulated_provider_reports_that_there_is_no_call_only_in_a_demo(settings):
    simulated = SimulatedProvider()
    settings.DEBUG = True
    assert find(simulated) is None
    settings.DEBUG = False

    with pytest.raises(ProviderUnavailable, match="simulated"):
        find(simulated)


def test_without_a_key_calls_are_simulated_and_a_warning_is_logged(caplog):
    providers._simulated_provider.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert isinstance(providers.provider_for(None), SimulatedProvider)

    assert "no real call is placed" in caplog.text


def test_a_simulated_call_ends_after_20_seconds_and_one_in_five_is_not_answered(monkeypatch):
    simulated = SimulatedProvider()
    calls = [simulated.place(REQUEST) for _ in range(500)]
    assert simulated.look_up(calls[0])["ended"] is None

    later = timezone.now() + timedelta(seconds=20)
    monkeypatch.setattr(timezone, "now", lambda: later)
    ended = [simulated.look_up(call) for call in calls]

    assert all(call["ended"] for call in ended)
    assert 50 <= sum(call["endReason"] == "unjoined" for call in ended) <= 150
    assert all((call["joined"] is None) is (call["endReason"] == "unjoined") for call in ended)
    assert simulated.look_up("a-real-one") is None
