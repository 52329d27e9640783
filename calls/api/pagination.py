"""Pagination with ``limit`` and ``offset``."""

from __future__ import annotations

from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request

from calls.parsing import parse_integer


class ClampedPagination(LimitOffsetPagination):
    """Clamps ``limit`` and ``offset`` to their range. A value that is not an integer counts as not given."""

    default_limit: int
    max_limit: int
    limit: int
    offset: int
    count: int

    def get_limit(self, request: Request) -> int:
        return min(max(1, self._read_integer(request, self.limit_query_param, self.default_limit)), self.max_limit)

    def get_offset(self, request: Request) -> int:
        return max(0, self._read_integer(request, self.offset_query_param, 0))

    def _read_integer(self, request: Request, name: str, default: int) -> int:
        try:
            return parse_integer(request.query_params.get(name, ""))
        except ValueError:
            return default

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
