"""What the provider says about a refusal, in its own words but without secrets, phone numbers and e-mail addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import httpx

# The most characters of the provider's words that are kept.
MAX_LENGTH = 200
# How much of an answer is read: its first messages, down to this depth, and their first characters.
MAX_MESSAGES = 20
MAX_DEPTH = 8
MAX_READ = 2_000

_HIDDEN = "***"
_EMAIL = re.compile(r"[^\s@<>()\"',;]+@[^\s@<>()\"',;]+")
# A value that is announced as a secret, such as "token=abc", "API key: abc" or "Bearer abc".
_ANNOUNCED = re.compile(r"(?i)(\bbearer\s+|(?:key|token|secret|password)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;]+")
_PREFIXED_KEY = re.compile(r"\b(?:sk|pk|rk|sb|whsec)[_-][\w-]+")
# A long word is hidden if it has letters and digits. That includes ids, which would also make each refusal's reason
# different from the one before.
_LONG_WORD = re.compile(r"[\w.+/=-]{16,}")
# Five digits or more, also with separators between them: +1 (212) 555-0100.
_SEPARATOR = r"[\W_]"
_DIGITS = re.compile(rf"\+?\(?\d(?:{_SEPARATOR}{{0,4}}\d){{4,}}")
_BETWEEN_DIGITS = re.compile(rf"(?<=\d){_SEPARATOR}{{1,4}}(?=\d)")
# A shorter number could be part of anything.
_MIN_DIGITS = 5

# Keys whose value is a message, and not the field that the message is about.
_MESSAGE_KEYS = ("detail", "error", "errors", "message", "non_field_errors")
# The request's metadata, which an answer may repeat: it has the contact's data.
_METADATA_KEY = "metadata"


def refusal_reason(response: httpx.Response, secrets: Iterable[str]) -> str:
    """
    Return the status and the provider's own words, such as ``HTTP 402: Your account has no credit.``

    The words are the JSON's ``detail``, or else its errors by field, or else the reason phrase, in one line of at most
    200 characters.

    :param secrets: texts that the result must not contain. Phone numbers, e-mail addresses and texts that look like
        keys are hidden too.
    """
    words = _clean("; ".join(islice(_messages(_json_of(response)), MAX_MESSAGES)), secrets)
    words = words or _clean(response.reason_phrase, secrets)
    return f"HTTP {response.status_code}: {words}" if words else f"HTTP {response.status_code}"


def names_number(response: httpx.Response, number: str) -> bool:
    """
    Return whether a refusal is about the called number: its words have the digits, or are an error of the field ``to``.

    An answer may repeat the request. A value without a letter is not a message, so it does not count.
    """
    answer = _json_of(response)
    digits = re.sub(r"\D", "", number)
    if answer is None:
        # Not response.text: the answer may declare a charset that Python has as a codec, but not for text.
        messages = [response.content.decode(errors="replace")]
    else:
        messages = [text for text in islice(_messages(answer), MAX_MESSAGES) if _is_message(text.rpartition(": ")[2])]
    has_digits = any(digits in _BETWEEN_DIGITS.sub("", text) for text in messages)
    return (has_digits and len(digits) >= _MIN_DIGITS) or _has_error_under_to(answer)


def _is_message(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _json_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _messages(answer: Any, field: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the messages in an answer, each after the field that it is about, if any."""
    if isinstance(answer, str):
        yield f"{field}: {answer}" if field else answer
    elif depth > MAX_DEPTH:
        return
    elif isinstance(answer, list):
        for item in answer:
            yield from _messages(item, field, depth + 1)
    elif isinstance(answer, dict):
        if isinstance(answer.get("detail"), str):
            answer = {"detail": answer["detail"]}
        for key, item in answer.items():
            if key != _METADATA_KEY:
                inner = field if key in _MESSAGE_KEYS else f"{field}.{key}".lstrip(".")
                yield from _messages(item, inner, depth + 1)


def _has_error_under_to(answer: Any, depth: int = 0) -> bool:
    if depth > MAX_DEPTH:
        return False
    if isinstance(answer, list):
        return any(_has_error_under_to(item, depth + 1) for item in answer)
    if isinstance(answer, dict):
        if any(map(_is_message, _messages(answer.get("to")))):
            return True
        inner = (item for key, item in answer.items() if key != _METADATA_KEY)
        return any(_has_error_under_to(item, depth + 1) for item in inner)
    return False


def _clean(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` in one line, without control characters and secrets, cut at 200 characters."""
    for secret in filter(None, secrets):
        text = text.replace(secret, _HIDDEN)
    text = "".join(character for character in " ".join(text[:MAX_READ].split()) if character.isprintable())
    text = _EMAIL.sub(_HIDDEN, text)
    text = _ANNOUNCED.sub(rf"\g<1>{_HIDDEN}", text)
    text = _PREFIXED_KEY.sub(_HIDDEN, text)
    text = _LONG_WORD.sub(_hide_unless_plain, text)
    text = _DIGITS.sub(_HIDDEN, text)
    return text[:MAX_LENGTH].rstrip()


def _hide_unless_plain(word: re.Match[str]) -> str:
    has_letter = any(character.isalpha() for character in word[0])
    has_digit = any(character.isdigit() for character in word[0])
    return _HIDDEN if has_letter and has_digit else word[0]
