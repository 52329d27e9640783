"""What is kept of the provider's words about a refusal, and whether a refusal names the number."""

import contextlib
import json

import pytest

from calls.providers.base import AllCallsRefused, CallRequest, PlacementRefused
from calls.providers.ultravox import UltravoxProvider
from calls.tests.support.provider import KEY, Answer

REQUEST = CallRequest(agent_id="agent-1", to="+12125550100", caller_id="+12125550199", metadata={"attempt": "1"})
OUTGOING_TO = {"medium": {"telnyx": {"outgoing": {"to": ["Enter a valid phone number."]}}}}


@pytest.fixture
def refusal(provider):
    """Return a function that places a call, with this answer, and returns the exception."""
    with contextlib.closing(UltravoxProvider(provider.url, KEY, timeout=5)) as ultravox:

        def refusal(status, body, headers=None):
            text = body if isinstance(body, str) else json.dumps(body)
            provider.default_answer = Answer(status, text, headers or {}, places_call=False)
            with pytest.raises((PlacementRefused, AllCallsRefused)) as refused:
                ultravox.place(REQUEST)
            return refused.value

        yield refusal


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "No credit."}, "No credit."),
        ({"detail": "No credit.", "code": "payment", "to": ["x"]}, "No credit."),
        (OUTGOING_TO, "medium.telnyx.outgoing.to: Enter a valid phone number."),
        ({"from": ["Unknown number.", "Not verified."]}, "from: Unknown number.; from: Not verified."),
        ({"non_field_errors": ["Ask support."]}, "Ask support."),
        ({"error": {"message": "Ask support.", "status": 402}}, "Ask support."),
        (["Ask support."], "Ask support."),
        ("<html>Payment Required</html>", "Payment Required"),
        ("null", "Payment Required"),
        ("{}", "Payment Required"),
        ("[" * 5000, "Payment Required"),
        ("[" * 500 + '"deep"' + "]" * 500, "Payment Required"),
        ({"metadata": {"first_name": "Ada"}, "detail": ["No credit."]}, "No credit."),
        ({"detail": " No\n\tcredit\u202e\x07\x00\ud800. "}, "No credit."),
        ({"detail": "\x00\u200b"}, "Payment Required"),
    ],
)
def test_the_reason_has_the_words_of_the_answer(refusal, body, words):
    assert str(refusal(402, body)) == f"HTTP 402: {words}"


@pytest.mark.parametrize("content_type", ["text/html; charset=base64", "text/html; charset=nonsense", "x", ""])
def test_an_answer_in_an_invalid_encoding_is_read(refusal, content_type):
    body = '{"detail": "No credit for you."}'
    refused = refusal(422, body, {"Content-Type": content_type})

    assert (str(refused), refused.names_number) == ("HTTP 422: No credit for you.", False)


@pytest.mark.parametrize("text", ["x" * 500, "no " * 500, "5" * 100_000, "a@" * 100_000, "a" * 1_000_000])
def test_the_words_have_at_most_200_characters(refusal, text):
    assert len(str(refusal(402, {"detail": text}))) <= len("HTTP 402: ") + 200


@pytest.mark.parametrize(
    "secret",
    [
        *("+12125550100", "12125550100", "+1 (212) 555-0100", "212.555.0100", "212\u2011555\u20110100", "55501"),
        *("+44 20 7946 0958", "\u0661\u0662\u0663\u0664\u0665\u0666", "sip:+12125550100@carrier.example"),
        *(
            "ada@example.org",
            KEY,
            "Zk9Ht7Lm.wX7pN9fM3kLj6tRq2bGhA8yE5cZvD4sT",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIi",
            "sk-abc",
        ),
        *("token=abcdef", "API key: abcdef", "Bearer abcdef", "3c90c3cc-0d44-4b50-8888-8dd25736052a"),
    ],
)
def test_phone_numbers_addresses_and_keys_are_hidden(refusal, secret):
    reason = str(refusal(402, {"detail": f"The call from {secret} was refused."}))

    assert secret not in reason
    for part in ("abc", "555", "ada", "example", "6tRq"):
        assert part not in reason
    assert reason.startswith("HTTP 402: The call from ")
    assert "*** was refused." in reason


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize(
    "body",
    [
        {"detail": "+12125550100 is not a number"},
        {"detail": "+1 (212) 555-0100 is not a number"},
        "<p>12125550100</p>",
        OUTGOING_TO,
        {"to": "Not a number."},
    ],
    ids=str,
)
def test_an_answer_with_the_number_or_with_an_error_under_to_is_about_the_number(refusal, status, body):
    refused = refusal(status, body)

    assert isinstance(refused, PlacementRefused)
    assert refused.names_number


@pytest.mark.parametrize(
    "body",
    [
        {"detail": "No."},
        {"from": ["+12125550199 is not verified."]},
        {"to": []},
        {"metadata": {"to": ["x"]}},
        "[" * 5000,
        "[" * 500 + '{"to": "x"}' + "]" * 500,
    ],
    ids=lambda body: str(body)[:40],
)
def test_other_answers_are_not_about_the_number(refusal, body):
    assert not refusal(422, body).names_number


@pytest.mark.parametrize("status", [401, 402, 404])
def test_an_answer_about_the_account_or_the_agent_concerns_all_calls_even_if_it_has_the_number(refusal, status):
    assert isinstance(refusal(status, {"to": ["+12125550100"]}), AllCallsRefused)
