"""How a function reads its body."""

from __future__ import annotations

import json
from typing import IO, Any

from rest_framework.parsers import BaseParser

from calls.api_errors import BodyTooLarge

MAX_BODY = 64 * 1024
MAX_DISCARDED = 16 * 1024 * 1024


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        # Python refuses thousands of digits, but JSON does not: it is a number all the same.
        return float(digits)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class AnyJSONParser(BaseParser):
    """Reads JSON whatever the ``Content-Type`` says: clients of edge functions send all kinds, and none."""

    media_type = "*/*"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """
        The value, or None for a body that is not JSON, which counts as absent.

        :raises BodyTooLarge: more than 64 KB.
        """
        body = stream.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            # Take the rest, up to a point: a client that is still sending when the connection closes reads no answer.
            for _ in range(MAX_DISCARDED // MAX_BODY):
                if not stream.read(MAX_BODY):
                    break
            raise BodyTooLarge
        try:
            return json.loads(body.decode("utf-8-sig"), parse_int=_integer, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
