"""One spelling of an id, a phone number or a time, wherever one comes in from outside."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any, TypeGuard

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
# What people, and the programs they copy from, put between digits: dashes of every kind, marks that are not seen.
_PUNCTUATION = re.compile(r"^tel:|[\s().\-/\u00ad\u200b-\u200f\u2010-\u2015\u202a-\u202e\u2060-\u2069\ufeff]")
E164 = re.compile(r"^\+[1-9][0-9]{6,14}$")
# An id of a call that is longer is none: it could not be looked up.
LONGEST_CALL_ID = 255


def parse_uuid(value: Any) -> uuid.UUID:
    """
    The UUID written as 8-4-4-4-12 hexadecimal digits, in either case.

    :raises ValueError: ``value`` is anything else, also a spelling that :class:`uuid.UUID` would take
        (braces, ``urn:uuid:``, 32 digits, surrounding spaces).
    """
    if isinstance(value, str) and _UUID.fullmatch(value):
        return uuid.UUID(value)
    raise ValueError("not a UUID of 8-4-4-4-12 hexadecimal digits")


def is_call_id(value: Any) -> TypeGuard[str]:
    """Whether the provider may have named a call so: with up to 255 characters, each of which can be stored."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_CALL_ID and value.isprintable()


def parse_phone_number(value: str) -> str:
    """
    The number in E.164, from however a person writes one: with spaces, dashes, dots, brackets, 00 or nothing for +.

    :raises ValueError: ``value`` is not a whole international number.
    """
    number = "+" + _PUNCTUATION.sub("", value).removeprefix("+").removeprefix("00")
    if E164.fullmatch(number):
        return number
    raise ValueError("not a phone number in international form")


def parse_time(value: Any) -> datetime:
    """
    The time that is written in ISO 8601, in UTC; without an offset it is taken for that.

    :raises ValueError: ``value`` is no such time, or one that cannot be told in UTC.
    """
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, OverflowError):
        raise ValueError("not a time in ISO 8601") from None
