"""Pagination with ``limit`` and ``offset``."""

from __future__ import annotations

from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request

from calls.exceptions import FieldInvalid
from calls.parsing import parse_integer


class ClampedPagination(LimitOffsetPagination):
    """Clamps ``limit`` and ``offset`` to their range and refuses values that are not integers."""

    default_limit: int
    max_limit: int
    limit: int
    offset: int
    count: int

    def get_limit(self, request: Request) -> int:
        """:raises FieldInvalid: the parameter is not an integer."""
        return min(max(1, self._read_integer(request, self.limit_query_param, self.default_limit)), self.max_limit)

    def get_offset(self, request: Request) -> int:
        """:raises FieldInvalid: the parameter is not an integer."""
        return max(0, self._read_integer(request, self.offset_query_param, 0))

    def _read_integer(self, request: Request, name: str, default: int) -> int:
        value = request.query_params.get(name)
        if not value:
            return default
        try:
            return parse_integer(value)
        except ValueError:
            raise FieldInvalid(name, "must be an integer") from None

    @property
    def page_info(self) -> dict[str, int | bool]:
        """``{"total", "limit", "offset", "has_more"}``"""
        return {
            "total": self.count,
            "limit": self.limit,
            "offset": self.offset,
            "has_more": self.offset + self.limit < self.count,
        }


class BatchPagination(ClampedPagination):
    default_limit, max_limit = 25, 100


class ContactPagination(ClampedPagination):
    default_limit, max_limit = 50, 200
    limit_query_param, offset_query_param = "contact_limit", "contact_offset"
