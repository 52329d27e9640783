"""What lists of many rows have in common here: nothing is edited, and nothing is read that no index finds."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet, TextChoices
from django.http import HttpRequest, HttpResponse

MANY_DIGITS = re.compile(r"(\d\W*){7}")
DATE_PART = re.compile(r"[12][0-9]{3}|0?[1-9]|[12][0-9]|3[01]")


class FoundOnly(ChangeList):
    """A list that says how many it found and offers no way to show all there are, in whatever order."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        if not self.sortable_by:
            # Django takes the address's word for it, also for a column whose heading offers no sorting.
            self.params.pop(ORDER_VAR, None)
        return super().get_ordering(request, queryset)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    A place to look. A batch changes by its verbs alone, each with a permission of its own: here nothing is added,
    edited or deleted by hand, whatever other permissions somebody has.
    """

    # Nothing is counted, and no page is longer, than anybody asked for: the contacts of all batches are millions.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_max_show_all = 0

    class Media:
        css = {"all": ["calls/admin.css"]}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return FoundOnly

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        found = (getattr(response, "context_data", None) or {}).get("cl")
        if found and not found.result_count and MANY_DIGITS.search(found.query):
            text = "Nothing found. Is it a phone number? Write all of it, with the country code: +1 212 555 0100."
            self.message_user(request, text, messages.WARNING)
        return response

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Model | None:
        """By its id, and by no other column that an address may name."""
        return super().get_object(request, object_id)

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
    """Counts, and leafs through, the first 10,000 rows; ``more`` says whether there are others."""

    LIMIT = 10_000
    more = False

    @cached_property
    def count(self) -> int:
        count = cast("QuerySet[Any]", self.object_list)[: self.LIMIT + 1].count()
        self.more = count > self.LIMIT
        return min(count, self.LIMIT)
