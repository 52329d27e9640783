"""The batches: a list, a page each, and a file of their contacts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timesince import timesince

from calls.admin.actions import BATCHES_AT_ONCE, BatchVerbsAdmin, with_ids
from calls.admin.base import OfferedFilter, StatusFilter
from calls.admin.display import belongs_to, describe, parts_of, reason
from calls.database.transactions import database_errors_as
from calls.exceptions import BatchNotFound, BatchReadFailed, CallsError
from calls.export import write_csv
from calls.models import Agency, CallBatch, CampaignContact
from calls.parsing import parse_phone_number, parse_uuid
from calls.statuses import BatchStatus

# How many of a batch's latest events its page shows. A batch that nobody pauses in a loop has far fewer.
HISTORY_SHOWN = 100


class BatchStatusFilter(StatusFilter):
    statuses = BatchStatus


class AgencyFilter(OfferedFilter):
    title = parameter_name = "agency"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return Agency.objects.order_by("name").values_list("slug", "name")

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(agency__slug=value)


@admin.register(CallBatch)
class CallBatchAdmin(BatchVerbsAdmin):
    list_display = ["id", "agency", "campaign", "status", "progress", "age"]
    # Names without a join: a batch is not missed because something that it belongs to is.
    list_select_related = []
    list_filter = [BatchStatusFilter, AgencyFilter]
    list_per_page = BATCHES_AT_ONCE
    sortable_by = ["id", "status", "age"]
    date_hierarchy = "created_at"
    ordering = ["-created_at", "-id"]
    search_fields = ["id"]
    search_help_text = (
        "A batch's id, a phone number with its country code (on the list, or the one that calls), or a part of an "
        "agency's or a campaign's name."
    )
    actions = [*BatchVerbsAdmin.actions, "export_selected"]
    fieldsets = [
        (
            "What happened, and when",
            {"fields": ["created_at", "scheduled_for", "started_at", "paused_at", "ended_at", "reason"]},
        ),
        ("How it calls", {"fields": ["agent_mapping", "from_number", "mode", "calls_per_minute", "max_concurrent"]}),
    ]

    # Looking

    def get_queryset(self, request: HttpRequest) -> QuerySet[CallBatch]:
        return super().get_queryset(request).prefetch_related("agency", "campaign")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[CallBatch], search_term: str
    ) -> tuple[QuerySet[CallBatch], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(pk=parse_uuid(term)), False
        except ValueError:
            pass
        found = Q(agency__name__icontains=term) | Q(agency__slug__icontains=term) | Q(campaign__name__icontains=term)
        try:
            number = parse_phone_number(term)
        except ValueError:
            pass
        else:
            called = CampaignContact.objects.filter(phone_number=number).values("batch")
            found |= Q(from_number=number) | Q(pk__in=called)
        return queryset.filter(found), False

    @admin.display(description="Progress")
    def progress(self, batch: CallBatch) -> str:
        return render_to_string(
            "admin/calls/callbatch/progress.html", {"parts": parts_of(batch), "total": batch.total_contacts or 0}
        )

    @admin.display(description="Age", ordering="-created_at")
    def age(self, batch: CallBatch) -> str | None:
        # Another service's table may have batches without a time.
        made = batch.created_at
        if not made:
            return None
        return format_html('<time title="{}">{}</time>', date_format(made, "DATETIME_FORMAT"), timesince(made, depth=1))

    @admin.display(description="Ended at")
    def ended_at(self, batch: CallBatch) -> str | None:
        return date_format(batch.completed_at, "DATETIME_FORMAT") if batch.completed_at else None

    @admin.display(description="Reason")
    def reason(self, batch: CallBatch) -> str | None:
        return batch.error_message

    def render_change_form(  # type: ignore[override]
        self, request: HttpRequest, context: dict[str, Any], *, obj: CallBatch, **kwargs: Any
    ) -> HttpResponse:
        context |= {
            "title": belongs_to(obj, ": "),
            "parts": parts_of(obj),
            "history": [describe(event) for event in obj.events.order_by("-pk")[:HISTORY_SHOWN]],
            "history_shown": HISTORY_SHOWN,
            "buttons": self.buttons(request, obj),
        }
        if self.has_export_permission(request):
            context["contacts_url"] = f"{reverse('admin:calls_campaigncontact_changelist')}?batch={obj.pk}"
            context["export_url"] = self._export_url([obj.pk])
        return super().render_change_form(request, context, obj=obj, **kwargs)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The history stands on the batch's own page; Django's would know only of what was done in the admin."""
        return HttpResponseRedirect(reverse("admin:calls_callbatch_change", args=[object_id]) + "#history")

    # Taking along

    def get_urls(self) -> list[URLPattern]:
        export = path("export/", self.admin_site.admin_view(self.export_view), name="calls_callbatch_export")
        return [export, *super().get_urls()]

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may look at batches and at their contacts."""
        contacts = self.admin_site.get_model_admin(CampaignContact)
        return self.has_view_permission(request) and contacts.has_view_permission(request)

    @admin.action(description="Export contacts of selected batches (CSV)", permissions=["export"])
    def export_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        ids = self.selected(request, queryset)
        return HttpResponseRedirect(self._export_url(ids)) if ids else None

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """The contacts of the batches in ``?ids=`` as a file, whole or not at all."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        ids = self.ids_asked_for(request)
        # As a file first: a slow reader holds no transaction open, and an error makes no half a file. With the mark at
        # its start spreadsheets read it as UTF-8.
        with ExitStack() as failing:
            try:
                with database_errors_as(BatchReadFailed):
                    batches = list(self.find(request, ids).values())
                if not 1 <= len(ids) == len(batches) <= BATCHES_AT_ONCE:
                    raise BatchNotFound
                file = failing.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8-sig", newline=""))
                write_csv(batches, file)
                file.seek(0)
            except (CallsError, OSError) as error:
                text = reason(error) if isinstance(error, CallsError) else "The server has no room for the file."
                self.message_user(request, text, messages.ERROR)
                return HttpResponseRedirect(self.list_url(request))
            # The response closes it.
            failing.pop_all()
            content = file.detach()
        name = f"batch-{batches[0].pk}.csv" if len(batches) == 1 else f"{len(batches)}-batches.csv"
        return FileResponse(content, as_attachment=True, filename=name, content_type="text/csv; charset=utf-8")

    def _export_url(self, ids: Iterable[UUID]) -> str:
        return with_ids(reverse("admin:calls_callbatch_export"), ids)
