"""Parsers of ids, integers, keys, phone numbers and times that come from outside."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any, TypeGuard

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_INTEGER = re.compile(r"-?[0-9]+")
# Characters between digits in numbers that people type or paste: dashes of every kind and invisible characters.
_PUNCTUATION = re.compile(r"^tel:|[\s().\-/\u00ad\u200b-\u200f\u2010-\u2015\u202a-\u202e\u2060-\u2069\ufeff]")
# The national prefix 0 as some people write it after the country code: +44 (0)7700 900321.
_NATIONAL_PREFIX = re.compile(r"(?<=[0-9])[\s.\-]*\(0\)")
E164 = re.compile(r"^\+[1-9][0-9]{6,14}$")
# A longer value is not a call id: it could not be looked up.
MAX_CALL_ID_LENGTH = 255
# An API key of the provider: printable ASCII without white space. The HTTP library would quote any other value in its
# exception.
_API_KEY = re.compile(r"[!-~]{1,500}")
API_KEY_RULE = "must have 1 to 500 printable ASCII characters and no white space"
# Keys of a call's metadata with this prefix are the provider's own. It refuses a call that sends one.
RESERVED_PREFIX = "ultravox."


def parse_uuid(value: Any) -> uuid.UUID:
    """
    Return the UUID that is written as 8-4-4-4-12 hexadecimal digits, in upper or lower case.

    :raises ValueError: ``value`` is anything else, including the other forms that :class:`uuid.UUID` accepts
        (braces, ``urn:uuid:``, 32 digits).
    """
    if isinstance(value, str) and _UUID.fullmatch(value):
        return uuid.UUID(value)
    raise ValueError("not a UUID of 8-4-4-4-12 hexadecimal digits")


def parse_integer(value: str) -> int:
    """
    Return the integer that is written as ASCII digits, with a minus sign if it is negative.

    :raises ValueError: ``value`` is anything else, including the other forms that :class:`int` accepts (underscores,
        blanks, a plus sign, digits of other scripts), or has more digits than Python accepts.
    """
    if _INTEGER.fullmatch(value):
        return int(value)
    raise ValueError("not an integer in ASCII digits")


def is_call_id(value: Any) -> TypeGuard[str]:
    """Return whether ``value`` can be a call's id at the provider: 1 to 255 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_CALL_ID_LENGTH and value.isprintable()


def is_api_key(value: Any) -> TypeGuard[str]:
    """Return whether ``value`` can be an API key of the provider. See ``API_KEY_RULE``."""
    return isinstance(value, str) and bool(_API_KEY.fullmatch(value))


def is_reserved_key(key: str) -> bool:
    """Return whether the provider reserves this key of a call's metadata, in upper or lower case to be safe."""
    return key.lower().startswith(RESERVED_PREFIX)


def parse_phone_number(value: str) -> str:
    """
    Return the number in E.164. Accepts spaces, dashes, dots and brackets, and 00 or nothing instead of +.

    Also accepts ``(0)`` after the country code, and the apostrophe that spreadsheets and exports put in front.

    :raises ValueError: ``value`` is not a complete international number.
    """
    digits = _PUNCTUATION.sub("", _NATIONAL_PREFIX.sub("", value)).removeprefix("'")
    number = "+" + digits.removeprefix("+").removeprefix("00")
    if E164.fullmatch(number):
        return number
    raise ValueError("not a phone number in international form")


def parse_time(value: Any) -> datetime:
    """
    Return the ISO 8601 time in UTC. A time without an offset is taken as UTC.

    :raises ValueError: ``value`` is not such a time, or is out of range in UTC.
    """
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, OverflowError):
        raise ValueError("not a time in ISO 8601") from None
