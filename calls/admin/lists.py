"""What lists of many rows have in common here: nothing is edited, and nothing is read that no index finds."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet, TextChoices
from django.http import HttpRequest

DATE_PART = re.compile(r"[12][0-9]{3}|0?[1-9]|[12][0-9]|3[01]")


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    A place to look. A batch changes by its verbs alone, each with a permission of its own: here nothing is added,
    edited or deleted by hand, whatever other permissions somebody has.
    """

    # Nothing is counted that nobody asked for: the contacts of all batches are millions.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """What the page itself offers, and no other column: those would reach the database with any value at all."""
        dates = [f"{self.date_hierarchy}__{part}" for part in ("year", "month", "day")]
        offered = [list_filter.parameter_name for list_filter in self.list_filter]  # type: ignore[union-attr]
        if lookup in offered or (lookup in dates and DATE_PART.fullmatch(value)):
            return True
        raise IncorrectLookupParameters


class OfferedFilter(admin.SimpleListFilter):
    """A filter that takes only what it offers. Any other value finds nothing, and never reaches the database."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        return self.narrow(queryset, value) if value in dict(self.lookup_choices) else queryset.none()

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        raise NotImplementedError


class StatusFilter(OfferedFilter):
    title = parameter_name = "status"
    statuses: type[TextChoices]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return self.statuses.choices

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(status=value)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts, and leafs through, the first 10,000 rows at most: what comes after is found by filter and search."""

    LIMIT = 10_000

    @cached_property
    def count(self) -> int:
        return cast("QuerySet[Any]", self.object_list)[: self.LIMIT].count()
