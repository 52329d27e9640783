"""Parsers of request bodies, with a size limit."""

from __future__ import annotations

import json
import math
from typing import IO, Any

from rest_framework.parsers import BaseParser

from calls.api.errors import BodyTooLarge

CHUNK_SIZE = 64 * 1024
MAX_DISCARDED_BYTES = 16 * 1024 * 1024


def _parse_integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        # Python refuses integers with thousands of digits, which are valid JSON.
        return float(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if number == 0 and digits.lstrip("-0.")[:1].isdigit():
        # The number is not 0, but closer to 0 than any float. Return the smallest float, which custom_data refuses.
        return math.ulp(0.0)
    return number


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def parse_json(body: bytes) -> Any:
    """Return the JSON value, or None if the body is not JSON: views treat it like an absent body."""
    try:
        return json.loads(
            body.decode("utf-8-sig"),
            parse_int=_parse_integer,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):
        return None


class AnyJSONParser(BaseParser):
    """Parses JSON with any ``Content-Type``, or none: clients of Edge Functions send all of these."""

    media_type = "*/*"
    max_bytes = 64 * 1024
    too_large_text = "Request body too large"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """
        Return what :func:`parse_json` returns.

        :raises BodyTooLarge: the body has more than ``max_bytes`` bytes.
        """
        return parse_json(self.read(stream))

    def read(self, stream: IO[bytes]) -> bytes:
        """
        Return the whole body.

        :raises BodyTooLarge: see :meth:`parse`.
        """
        body = stream.read(self.max_bytes + 1)
        if len(body) > self.max_bytes:
            # Read the rest, up to a limit: a client that is still sending when the connection closes does not read the
            # answer.
            for _ in range(MAX_DISCARDED_BYTES // CHUNK_SIZE):
                if not stream.read(CHUNK_SIZE):
                    break
            raise BodyTooLarge(self.too_large_text)
        return body


class OptionalJSONParser(AnyJSONParser):
    """Like ``AnyJSONParser``, but returns ``{}`` for an empty body, which is then valid."""

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """:raises BodyTooLarge: see :meth:`AnyJSONParser.parse`."""
        body = self.read(stream)
        return parse_json(body) if body.strip() else {}


class RawParser(AnyJSONParser):
    """Returns the body as bytes, because a webhook's signature is computed from the raw body."""

    max_bytes = 1024 * 1024
    too_large_text = "Request body too large: at most 1 MB"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """:raises BodyTooLarge: see :meth:`AnyJSONParser.parse`."""
        return self.read(stream)


class LargeRawParser(RawParser):
    """Returns a body of up to 16 MB, a list of contacts. The view parses it when it is its turn."""

    max_bytes = 16 * 1024 * 1024
    too_large_text = "Request body too large: at most 16 MB"
