"""Base classes of the admin's lists: they are read-only, and an index answers each of their queries."""

from __future__ import annotations

import logging
import re
from functools import cached_property
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Page, Paginator
from django.db import Error
from django.db.models import Model, QuerySet, TextChoices
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from calls.admin.selection import selects_all_matching, wellformed_ids
from calls.database.transactions import transaction_with_timeouts

logger = logging.getLogger(__name__)

MANY_DIGITS = re.compile(r"(\d\W*){7}")
DATE_PART = re.compile(r"[12][0-9]{3}|0?[1-9]|[12][0-9]|3[01]")


class IndexedChangeList(ChangeList):
    """A list that sorts only by the columns that offer it, and never counts the whole table."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        if not self.sortable_by:
            # Django would obey ?o= even for a column that cannot be sorted.
            self.params.pop(ORDER_VAR, None)
        return super().get_ordering(request, queryset)

    def get_results(self, request: HttpRequest) -> None:
        try:
            super().get_results(request)
        except IncorrectLookupParameters:
            # The page does not exist any more. Django would redirect to the list without its filters.
            self.page_num = 1
            super().get_results(request)
        # Equal numbers make Django leave out the link "Show all".
        self.full_result_count = self.result_count


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    An admin that only shows rows.

    Batches change through their actions alone, each with its own permission. Adding, editing and deleting are refused
    to everyone, superusers included.
    """

    # The contacts of all batches are millions of rows, so nothing counts or lists all of them.
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_max_show_all = 0

    class Media:
        css = {"all": ["calls/admin.css"]}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return IndexedChangeList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = self._act_on_ticked_rows(request) or super().changelist_view(request, extra_context)
        change_list = (getattr(response, "context_data", None) or {}).get("cl")
        if change_list and not change_list.result_count and MANY_DIGITS.search(change_list.query):
            text = (
                "Nothing found. To search for a phone number, enter all of it with the country code: +1 212 555 0100."
            )
            self.message_user(request, text, messages.WARNING)
        return response

    def _act_on_ticked_rows(self, request: HttpRequest) -> HttpResponse | None:
        """
        Perform the chosen action on exactly the rows that were ticked.

        Django would leave out each row that the list's filters, search and page do not find any more, without a
        message. Return None for requests that Django answers: those with no action, with nothing ticked, or with
        "Select all", where the filters decide which rows are selected.
        """
        name = request.POST.get("action")
        if not name or not self.has_view_permission(request):
            return None
        action = self.get_actions(request).get(name)
        if action is None:
            text = "You may not do this, or this action does not exist. Nothing was changed."
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        ticked = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if not ticked or selects_all_matching(request):
            return None
        function: Any = action[0]
        response = function(self, request, self.get_queryset(request).filter(pk__in=wellformed_ids(ticked)))
        return cast(HttpResponse, response or HttpResponseRedirect(request.get_full_path()))

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        try:
            return super().get_changelist_instance(request)
        except IncorrectLookupParameters:
            text = "The filter is not valid, so the list shows everything. Nothing was changed."
            self.message_user(request, text, messages.ERROR)
            raise

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Model | None:
        """Find the object by its id only, and not by the column that ``?_to_field=`` names."""
        return super().get_object(request, object_id)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Allow only the filters that the page offers. Others could send any value to the database."""
        dates = [f"{self.date_hierarchy}__{part}" for part in ("year", "month", "day")]
        offered = [list_filter.parameter_name for list_filter in self.list_filter]  # type: ignore[union-attr]
        if lookup in offered or (lookup in dates and DATE_PART.fullmatch(value)):
            return True
        raise IncorrectLookupParameters

    def log_recent_action(self, request: HttpRequest, obj: Model, text: str) -> None:
        """Add ``text`` to the user's recent actions. A database error is logged and does not fail the request."""
        try:
            with transaction_with_timeouts():
                self.log_change(request, obj, text)
        except Error as error:
            logger.warning("recent actions are not logged: %s", type(error).__name__)

    def list_url(self, request: HttpRequest) -> str:
        """Return the URL of the list, filtered as the operator left it."""
        url = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")
        return self.with_preserved_filters(request, url)

    def with_preserved_filters(self, request: HttpRequest, url: str) -> str:
        """Return ``url`` with the list's filters, so that the page behind it can lead back to the filtered list."""
        filters: Any = {"preserved_filters": self.get_preserved_filters(request), "opts": self.opts}
        return add_preserved_filters(filters, url)


class OfferedFilter(admin.SimpleListFilter):
    """A filter that accepts only the values it offers. Another value finds nothing and never reaches the database."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        return self.narrow(queryset, value) if value in dict(self.lookup_choices) else queryset.none()

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the rows that match ``value``, which is one of the values that :meth:`lookups` returned."""
        raise NotImplementedError


class StatusFilter(OfferedFilter):
    title = parameter_name = "status"
    statuses: type[TextChoices]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return self.statuses.choices

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(status=value)


class IdsFirstPaginator(Paginator):  # type: ignore[type-arg]
    """
    A paginator that chooses the ids of a page by an index, and then reads its rows.

    OFFSET would read all columns of each row before the page, and join other tables to it.
    """

    def page(self, number: int | str) -> Page[Any]:
        page = super().page(number)
        ids = list(cast("QuerySet[Any]", page.object_list).values_list("pk", flat=True))
        page.object_list = cast("QuerySet[Any]", self.object_list).filter(pk__in=ids)
        return page


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator of the first 10,000 rows. ``more`` tells whether there are others."""

    LIMIT = 10_000
    more = False

    @cached_property
    def count(self) -> int:
        count = cast("QuerySet[Any]", self.object_list)[: self.LIMIT + 1].count()
        self.more = count > self.LIMIT
        return min(count, self.LIMIT)
