"""How a function reads its body."""

from __future__ import annotations

import json
from typing import IO, Any

from rest_framework.parsers import BaseParser

from calls.api.errors import BadRequest, BodyTooLarge

CHUNK = 64 * 1024
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
    max_body = 64 * 1024
    too_large = "Request body too large"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """
        The value, or None for a body that is not JSON, which counts as absent.

        :raises BodyTooLarge: more than ``max_body`` bytes.
        :raises BadRequest: the client has gone before all of it was there.
        """
        try:
            return json.loads(self.read(stream).decode("utf-8-sig"), parse_int=_integer, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None

    def read(self, stream: IO[bytes]) -> bytes:
        """All of it, refused as :meth:`parse` does."""
        try:
            body = stream.read(self.max_body + 1)
            if len(body) > self.max_body:
                # Take the rest, up to a point: who is still sending when the connection closes reads no answer.
                for _ in range(MAX_DISCARDED // CHUNK):
                    if not stream.read(CHUNK):
                        break
                raise BodyTooLarge(self.too_large)
            return body
        except OSError:
            # Whoever sent it has gone.
            raise BadRequest from None


class LongJSONParser(AnyJSONParser):
    """For a list of contacts."""

    max_body = 16 * 1024 * 1024
    too_large = "Request body too large: at most 16 MB"


class RawParser(AnyJSONParser):
    """Gives the body as it came, byte for byte: for what is signed."""

    max_body = 1024 * 1024
    too_large = "Request body too large: at most 1 MB"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """:raises CallsError: as above."""
        return self.read(stream)
