"""The contacts: those of one batch, or whoever has a number."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from calls.admin.lists import BoundedPaginator, OfferedFilter, ReadOnlyAdmin, StatusFilter
from calls.identifiers import parse_phone_number, parse_uuid
from calls.models import CampaignContact
from calls.statuses import ContactStatus


class ContactStatusFilter(StatusFilter):
    """Offered within a batch: the contacts of all batches have no index by status."""

    statuses = ContactStatus
    LEFT = "left"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        if BatchFilter.parameter_name not in request.GET:
            return []
        return [*super().lookups(request, model_admin), (self.LEFT, "Left to call")]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.dialable() if value == self.LEFT else super().narrow(queryset, value)  # type: ignore[attr-defined]


class BatchFilter(OfferedFilter):
    """The contacts of one batch, for whoever comes from its page."""

    title = parameter_name = "batch"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(self.value(), self.value())] if self.value() else []  # type: ignore[list-item]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        try:
            return queryset.filter(batch=parse_uuid(value))
        except ValueError:
            return queryset.none()


@admin.register(CampaignContact)
class CampaignContactAdmin(ReadOnlyAdmin):
    list_display = ["phone_number", "name", "status", "attempts", "outcome", "outcome_notes", "last_attempt_at"]
    list_filter = [ContactStatusFilter, BatchFilter]
    # In the order of the ids, which an index gives; five million rows are not sorted by anything else.
    ordering = ["id"]
    sortable_by = ()
    paginator = BoundedPaginator
    list_max_show_all = 0
    search_fields = ["phone_number"]
    search_help_text = "A whole phone number."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[CampaignContact], search_term: str
    ) -> tuple[QuerySet[CampaignContact], bool]:
        if not search_term.strip():
            return queryset, False
        try:
            return queryset.filter(phone_number=parse_phone_number(search_term)), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description="Name")
    def name(self, contact: CampaignContact) -> str:
        return f"{contact.first_name} {contact.last_name}".strip()
