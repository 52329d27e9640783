"""One spelling of an id, wherever one comes in from outside."""

import re
import uuid
from typing import Any

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def parse_uuid(value: Any) -> uuid.UUID:
    """
    The UUID written as 8-4-4-4-12 hexadecimal digits, in either case.

    :raises ValueError: ``value`` is anything else, also a spelling that :class:`uuid.UUID` would take
        (braces, ``urn:uuid:``, 32 digits, surrounding spaces).
    """
    if isinstance(value, str) and _UUID.fullmatch(value):
        return uuid.UUID(value)
    raise ValueError("not a UUID of 8-4-4-4-12 hexadecimal digits")
