"""The contacts in the admin: all contacts, the contacts of one batch, or the contacts with one phone number."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html

from calls.admin.base import BoundedPaginator, IdsFirstPaginator, OfferedFilter, ReadOnlyAdmin, StatusFilter
from calls.admin.holds import held_agencies
from calls.models import CallBatch, CampaignContact
from calls.parsing import parse_phone_number, parse_uuid
from calls.statuses import ContactStatus


class ContactStatusFilter(StatusFilter):
    """Offered only within a batch: no index finds contacts by status across batches."""

    statuses = ContactStatus
    LEFT = "left"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        if not request.GET.get(BatchFilter.parameter_name):
            return []
        return [*super().lookups(request, model_admin), (self.LEFT, "Left to call")]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.dialable() if value == self.LEFT else super().narrow(queryset, value)  # type: ignore[attr-defined]


class BatchFilter(OfferedFilter):
    """The contacts of one batch. The links on its page use this filter."""

    title = parameter_name = "batch"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(self.value(), self.value())] if self.value() else []  # type: ignore[list-item]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        try:
            return queryset.filter(batch=parse_uuid(value))
        except ValueError:
            return queryset.none()


def find_batch(batch_id: str | None) -> CallBatch | None:
    """Return the batch that the query names, or None if the id is missing, malformed or unknown."""
    try:
        return CallBatch.objects.select_related("agency", "campaign").filter(pk=parse_uuid(batch_id)).first()
    except ValueError:
        return None


@admin.register(CampaignContact)
class CampaignContactAdmin(ReadOnlyAdmin):
    list_display = [
        *("phone_number", "name", "status", "attempts", "outcome", "outcome_notes", "last_attempt_at", "in_batch"),
    ]
    list_select_related = ["batch__agency", "batch__campaign"]
    list_filter = [ContactStatusFilter, BatchFilter]
    sortable_by = ()
    search_fields = ["phone_number"]
    search_help_text = "A phone number with its country code."
    fields = [
        *("phone_number", "name", "status", "do_not_call", "batch", "agency", "campaign"),
        *(
            "attempts",
            "max_attempts",
            "last_attempt_at",
            "outcome",
            "outcome_notes",
            "duration_seconds",
            "completed_at",
        ),
        *("company", "title", "email", "timezone", "custom_data", "call_id", "created_at", "updated_at"),
    ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        batch = find_batch(request.GET.get(BatchFilter.parameter_name))
        context: dict[str, Any] = {}
        if batch:
            context = {
                "title": f"Contacts of {batch.agency}: {batch.campaign}",
                "batch": batch,
                "held_agencies": held_agencies([batch]),
            }
        return super().changelist_view(request, context | (extra_context or {}))

    def render_change_form(  # type: ignore[override]
        self, request: HttpRequest, context: dict[str, Any], *, obj: CampaignContact, **kwargs: Any
    ) -> HttpResponse:
        context["held_agencies"] = held_agencies([obj.batch] if obj.batch else [])
        return super().render_change_form(request, context, obj=obj, **kwargs)

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        """Order by an index. Sorting millions of rows by anything else would take too long."""
        return ["created_at", "id"] if request.GET.get(BatchFilter.parameter_name) else ["id"]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Leave out the batch's name when all contacts belong to one batch."""
        within_batch = request.GET.get(BatchFilter.parameter_name)
        return [column for column in self.list_display if not (within_batch and column == "in_batch")]

    def get_paginator(
        self, request: HttpRequest, queryset: Any, per_page: int, *args: Any, **kwargs: Any
    ) -> Paginator[Any]:
        """Count the contacts of one batch exactly. There are too many contacts to count all of them."""
        paginator = IdsFirstPaginator if request.GET.get(BatchFilter.parameter_name) else BoundedPaginator
        return paginator(queryset, per_page, *args, **kwargs)

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

    @admin.display(description="Batch")
    def in_batch(self, contact: CampaignContact) -> str | None:
        batch = contact.batch
        if batch is None:
            return None
        url = reverse("admin:calls_callbatch_change", args=[batch.pk])
        return format_html('<a href="{}">{}: {}</a>', url, batch.agency, batch.campaign)
