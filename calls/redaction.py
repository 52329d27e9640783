"""
Redact secrets and phone numbers in log records, and keep text from outside from forging a line.

The patterns match anywhere in a line, because a client can send a secret in a misspelt path, a malformed header or a
query. A secret without a known form, in an unknown place, is not recognised.

Each pattern is linear in the length of the text: no two attempts read the same characters.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

# What separates a header's name from its value, also where the colon is missing. Tabs have been escaped.
_GAP = r"(?:[\s:=+'\"]|\\t)++"
# A header's value: up to the end of the line, without the quote that ends it.
_REST_OF_LINE = r".+?(?=['\"]?$)"
# A path may contain spaces and quotes, because Django logs it decoded. So it ends at " HTTP/1.1" or with the line.
_REST_OF_PATH = r"(?! HTTP/\d).+?(?= HTTP/\d|$)"

_PATTERNS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    # Supabase's API keys, and the secrets of Standard Webhooks.
    (r"(sb_secret_|sb_publishable_|whsec_)[\w+/=%-]+", r"\1***"),
    # The webhook's secret: what follows a function's name in a path, except for the agency's id.
    (
        r"((?:functions/[/.]*v1/+(?:(?! HTTP/)[^/?])*|webhook.?ingest)/+(?:[0-9a-f-]{36}/+)?)" + _REST_OF_PATH,
        r"\1***",
    ),
    # A query: a search may contain a phone number. After a space or "(", the question mark is part of something else.
    (r'(?<![\s(])\?(?!"?(?:\s|$)).+?(?= HTTP/\d|" |"?$)', ""),
    # ``Authorization: Basic …``, ``apikey …``, ``X-API-Key: …``. gunicorn logs a malformed header as it was sent.
    (rf"((?:authorization|api-?key){_GAP}(?:(?:bearer|basic){_GAP})?){_REST_OF_LINE}", r"\1***"),
    # ``Cookie: sessionid=…``. Without a name and a value, "cookie" is a word in a sentence.
    (rf"((?:cookie{_GAP}[^\s=]{{1,100}}|sessionid|csrftoken)=){_REST_OF_LINE}", r"\1***"),
    # ``Bearer …``, outside of a header.
    (rf"(bearer{_GAP})[^\s'\"]+", r"\1***"),
    # The password in a URL such as DATABASE_URL, up to the last @.
    (r"(://[^\s:/@]*:)(\S+)", lambda url: url[1] + re.sub(r"^.*@", "***@", url[2])),
    # JSON Web Tokens, also truncated or with encoded dots. ``eyJ`` is the beginning of a JSON object in base64.
    (r"eyJ[\w.=%-]{8,}", "***"),
    # Phone numbers (E.164).
    (r"\+[1-9][0-9]{6,14}", "+***"),
]
_COMPILED = [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _PATTERNS]

# How often a text may be percent-encoded. A path that is encoded twice reaches the log encoded once.
_ENCODINGS = 3

_NOT_ASCII = re.compile(r"[^ -~]+")


class WithoutSecrets(logging.Filter):
    """
    Replaces secrets and phone numbers with ``***`` and escapes control characters. Drops no record and never raises.

    A traceback keeps its lines. Those after the first are indented, so that none looks like a line of the log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        # A message that cannot be formatted, for example because its arguments do not fit, is left to the handler. It
        # fails there as well, and is reported without an exception in the caller (logging.Handler.handleError).
        with suppress(Exception):
            _redact_record(record)
        return True


def _redact_record(record: logging.LogRecord) -> None:
    message = record.getMessage()
    redacted = redact(message)
    if redacted != message:
        record.msg, record.args = redacted, ()
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    if record.exc_text:
        record.exc_text = _redact_lines(record.exc_text)
    if record.stack_info:
        record.stack_info = _redact_lines(record.stack_info)


def redact(text: str, encodings: int = _ENCODINGS) -> str:
    """Return ``text`` as one line without secrets. If percent-encoding hides a secret, the result is decoded."""
    text = _escape(text)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    decoded = _escape(unquote(text))
    if decoded == text or not encodings:
        return text
    redacted = redact(decoded, encodings - 1)
    return text if redacted == decoded else redacted


def _redact_lines(text: str) -> str:
    first, *others = (redact(line) for line in text.split("\n"))
    return "\n".join([first, *(f"  {line}" if line[:1].strip() else line for line in others)])


def _escape(text: str) -> str:
    """Write control characters, line separators and the like as ``\\n``, ``\\x1b`` or ``\\u2028``."""
    return _NOT_ASCII.sub(
        lambda match: match[0] if match[0].isprintable() else match[0].encode("unicode_escape").decode("ascii"), text
    )
