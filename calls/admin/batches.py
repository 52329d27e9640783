"""The batches in the admin: a list, a page for each batch, its actions, and the CSV export of its contacts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, BinaryIO, cast
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

from calls.admin.actions import BATCH_ACTIONS, CANCEL, PAUSE, RESUME, BatchAction
from calls.admin.base import OfferedFilter, ReadOnlyAdmin, StatusFilter
from calls.admin.confirmation import ConfirmationView
from calls.admin.display import (
    HISTORY_SHOWN,
    agency_and_campaign,
    history_row,
    progress_parts,
    refusal_text,
)
from calls.admin.holds import held_agencies
from calls.admin.replacing import ReplaceView, can_be_replaced
from calls.admin.selection import BATCHES_AT_ONCE, SelectionForm, find_batches, selected_ids, with_ids
from calls.database.transactions import database_errors_as
from calls.dialler.waiting import waiting_for, with_dialling_state
from calls.exceptions import BatchReadFailed
from calls.export import write_csv
from calls.models import Agency, CallBatch, CampaignContact
from calls.models.querysets import CallBatchQuerySet
from calls.parsing import parse_phone_number, parse_uuid
from calls.statuses import BatchStatus


class BatchStatusFilter(StatusFilter):
    statuses = BatchStatus


class AgencyFilter(OfferedFilter):
    title = parameter_name = "agency"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        # Both may be NULL in an adopted table.
        agencies = Agency.objects.order_by("name").values_list("slug", "name")
        return [(slug, name or slug) for slug, name in agencies if slug]

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(agency__slug=value)


@admin.register(CallBatch)
class CallBatchAdmin(ReadOnlyAdmin):
    list_display = ["id", "agency", "campaign", "status_and_reason", "progress", "age"]
    # get_queryset prefetches names. A join would hide a batch whose campaign another service deleted.
    list_select_related = []
    list_filter = [BatchStatusFilter, AgencyFilter]
    list_per_page = BATCHES_AT_ONCE
    sortable_by = ["id", "status_and_reason", "age"]
    date_hierarchy = "created_at"
    ordering = ["-created_at", "-id"]
    search_fields = ["id"]
    search_help_text = (
        "A batch id, a phone number with its country code (of a contact or the caller id), or part of an agency's or "
        "campaign's name."
    )
    actions = ["pause_selected", "resume_selected", "cancel_selected", "export_selected"]
    fieldsets = [
        (
            "What happened, and when",
            {"fields": ["created_at", "scheduled_for", "started_at", "paused_at", "ended_at", "reason"]},
        ),
        ("Dialling", {"fields": ["agent_mapping", "from_number", "mode", "calls_per_minute", "max_concurrent"]}),
    ]

    def get_urls(self) -> list[URLPattern]:
        def confirmation(action: BatchAction[Any]) -> URLPattern:
            view = ConfirmationView.as_view(model_admin=self, action=action)
            return path(f"{action.name}/", self.admin_site.admin_view(view), name=f"calls_callbatch_{action.name}")

        return [
            *map(confirmation, BATCH_ACTIONS),
            path(
                "<uuid:pk>/replace/",
                self.admin_site.admin_view(ReplaceView.as_view(model_admin=self)),
                name="calls_callbatch_replace",
            ),
            path("export/", self.admin_site.admin_view(self.export_view), name="calls_callbatch_export"),
            *super().get_urls(),
        ]

    # The list

    def get_queryset(self, request: HttpRequest) -> QuerySet[CallBatch]:
        batches = cast(CallBatchQuerySet, super().get_queryset(request))
        return with_dialling_state(batches.with_replacement()).prefetch_related("agency", "campaign")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:
            context["held_agencies"] = held_agencies(context["cl"].result_list)
        return response

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
        matches = Q(agency__name__icontains=term) | Q(agency__slug__icontains=term) | Q(campaign__name__icontains=term)
        try:
            number = parse_phone_number(term)
        except ValueError:
            pass
        else:
            with_contact = CampaignContact.objects.filter(phone_number=number).values("batch")
            matches |= Q(from_number=number) | Q(pk__in=with_contact)
        return queryset.filter(matches), False

    @admin.display(description="Status", ordering="status")
    def status_and_reason(self, batch: CallBatch) -> str | None:
        status = cast(str | None, batch.get_status_display())
        if not batch.pause_reason:
            return status
        return format_html('{}<p class="batch-reason">{}</p>', status, batch.pause_reason)

    @admin.display(description="Progress")
    def progress(self, batch: CallBatch) -> str:
        return render_to_string(
            "admin/calls/callbatch/progress.html",
            {"parts": progress_parts(batch), "total": batch.total_contacts or 0, "waiting": waiting_for(batch)},
        )

    @admin.display(description="Age", ordering="-created_at")
    def age(self, batch: CallBatch) -> str | None:
        created_at = batch.created_at
        # Adopted tables may have batches without it.
        if not created_at:
            return None
        moment = date_format(created_at, "DATETIME_FORMAT")
        return format_html('<time title="{}">{}</time>', moment, timesince(created_at, depth=1))

    # A batch's page

    @admin.display(description="Ended at")
    def ended_at(self, batch: CallBatch) -> str:
        if batch.completed_at is None:
            return self.get_empty_value_display()
        return date_format(batch.completed_at, "DATETIME_FORMAT")

    @admin.display(description="Reason")
    def reason(self, batch: CallBatch) -> str:
        return batch.error_message or self.get_empty_value_display()

    def render_change_form(  # type: ignore[override]
        self, request: HttpRequest, context: dict[str, Any], *, obj: CallBatch, **kwargs: Any
    ) -> HttpResponse:
        context |= {
            "title": agency_and_campaign(obj, ": "),
            "held_agencies": held_agencies([obj]),
            "replaces_url": self._page_url(obj.replaces_id),
            "replaced_by_url": self._page_url(cast(Any, obj).replacement_id),
            "replace_url": self._replace_url(request, obj),
            "parts": progress_parts(obj),
            "waiting": waiting_for(obj),
            "history": [history_row(event) for event in obj.events.order_by("-pk")[:HISTORY_SHOWN]],
            "history_shown": HISTORY_SHOWN,
            "buttons": [
                {"action": action, "url": self._confirmation_url(request, action, [obj.pk])}
                for action in BATCH_ACTIONS
                if action.is_permitted(request, self) and action.applies_to(obj)
            ],
        }
        if self.has_export_permission(request):
            context["contacts_url"] = f"{reverse('admin:calls_campaigncontact_changelist')}?batch={obj.pk}"
            context["export_url"] = self._export_url([obj.pk])
        return super().render_change_form(request, context, obj=obj, **kwargs)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Redirect to the history on the batch's page. Django's history page shows only changes made in the admin."""
        return HttpResponseRedirect(reverse("admin:calls_callbatch_change", args=[object_id]) + "#history")

    def _page_url(self, pk: UUID | None) -> str | None:
        return reverse("admin:calls_callbatch_change", args=[pk]) if pk else None

    def _replace_url(self, request: HttpRequest, batch: CallBatch) -> str | None:
        """Return the URL of the form that replaces the batch, if it can be replaced and the user may do so."""
        if not can_be_replaced(batch) or not ReplaceView.is_permitted(request, self):
            return None
        return reverse("admin:calls_callbatch_replace", args=[batch.pk])

    # Actions

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return CANCEL.is_permitted(request, self)

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return PAUSE.is_permitted(request, self)

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return RESUME.is_permitted(request, self)

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may look at batches and at contacts."""
        contacts = self.admin_site.get_model_admin(CampaignContact)
        return self.has_view_permission(request) and contacts.has_view_permission(request)

    @admin.action(description="Cancel selected batches", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        return self._confirm(request, queryset, CANCEL)

    @admin.action(description="Pause selected batches", permissions=["pause"])
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        return self._confirm(request, queryset, PAUSE)

    @admin.action(description="Resume selected batches", permissions=["resume"])
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        return self._confirm(request, queryset, RESUME)

    @admin.action(description="Export contacts of selected batches (CSV)", permissions=["export"])
    def export_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        ids = self._selected_ids(request, queryset)
        return HttpResponseRedirect(self._export_url(ids)) if ids else None

    def _confirm(
        self, request: HttpRequest, queryset: QuerySet[CallBatch], action: BatchAction[Any]
    ) -> HttpResponse | None:
        """Redirect to the action's confirmation page. Nothing is changed yet."""
        ids = self._selected_ids(request, queryset)
        return HttpResponseRedirect(self._confirmation_url(request, action, ids)) if ids else None

    def _selected_ids(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> list[str] | None:
        """Return the ids of the selected batches. If there are none or too many, show a message and return None."""
        ids = selected_ids(request, queryset)
        if 1 <= len(ids) <= BATCHES_AT_ONCE:
            return ids
        text = (
            f"Select at most {BATCHES_AT_ONCE} batches at a time."
            if ids
            else "No batch matches the filters any more. Nothing was changed."
        )
        self.message_user(request, text, messages.ERROR)
        return None

    def _confirmation_url(self, request: HttpRequest, action: BatchAction[Any], ids: Iterable[UUID | str]) -> str:
        url = with_ids(reverse(f"admin:calls_callbatch_{action.name}"), ids)
        return self.with_preserved_filters(request, url)

    # Export

    def _export_url(self, ids: Iterable[UUID | str]) -> str:
        return with_ids(reverse("admin:calls_callbatch_export"), ids)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Download the contacts of the batches in ``?ids=`` as CSV, all or nothing."""
        if not self.has_export_permission(request):
            raise PermissionDenied
        selection = SelectionForm(request.GET)
        if not selection.is_valid():
            return self._refuse_export(request, f"Select 1 to {BATCHES_AT_ONCE} batches to export.")
        ids = selection.cleaned_data["ids"]
        try:
            with database_errors_as(BatchReadFailed):
                batches = find_batches(self.get_queryset(request), ids)
            unknown = [pk for pk in ids if pk not in batches]
            if unknown:
                return self._refuse_export(request, f"Nothing was exported. Batch not found: {', '.join(unknown)}.")
            content = csv_file(batches.values())
        except BatchReadFailed as refusal:
            return self._refuse_export(request, refusal_text(refusal))
        except OSError:
            return self._refuse_export(request, "The server has no space for the file.")
        name = f"batch-{ids[0]}.csv" if len(ids) == 1 else f"{len(ids)}-batches.csv"
        return FileResponse(content, as_attachment=True, filename=name, content_type="text/csv; charset=utf-8")

    def _refuse_export(self, request: HttpRequest, text: str) -> HttpResponse:
        self.message_user(request, text, messages.ERROR)
        return HttpResponseRedirect(self.list_url(request))


def csv_file(batches: Iterable[CallBatch]) -> BinaryIO:
    """
    Write the contacts of ``batches`` to a temporary file and return it, ready to be read.

    A file instead of a streamed response: a slow download keeps no transaction open, and an error sends no partial
    file. It begins with a byte order mark, so that spreadsheets read it as UTF-8.

    :raises BatchReadFailed: the database failed or took too long.
    :raises OSError: the file could not be written.
    """
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8-sig", newline=""))
        write_csv(batches, file)
        file.seek(0)
        # Without an error the file stays open. The response closes it.
        stack.pop_all()
        return cast(BinaryIO, file.detach())
