"""The batches: a list, a page each, and the way to stop them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import pluralize
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timesince import timesince

from calls.actors import Actor, Door
from calls.admin.display import describe, name_of, outcome, parts_of, reason
from calls.admin.lists import OfferedFilter, ReadOnlyAdmin, StatusFilter
from calls.db import as_update_failed, bounded
from calls.exceptions import BatchFinished, BatchNotFound, BatchUpdateFailed, CallsError
from calls.identifiers import parse_phone_number, parse_uuid
from calls.models import Agency, CallBatch, CampaignContact, CancelResult
from calls.statuses import BatchStatus

# How many batches one confirmation takes: a page of the list, each cancelled in its own transaction while somebody
# waits for the answer.
BATCHES_AT_ONCE = 50
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
class CallBatchAdmin(ReadOnlyAdmin):
    list_display = ["id", "agency", "campaign", "status", "progress", "age"]
    list_select_related = ["agency", "campaign"]
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
    actions = ["cancel_selected"]
    fieldsets = [
        (
            "What happened, and when",
            {"fields": ["created_at", "scheduled_for", "started_at", "paused_at", "ended_at", "reason"]},
        ),
        ("How it calls", {"fields": ["agent_mapping", "from_number", "mode", "calls_per_minute", "max_concurrent"]}),
    ]

    # Looking

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
        contacts = self.admin_site.get_model_admin(CampaignContact)
        context |= {
            "title": f"{obj.agency}: {obj.campaign}",
            "parts": parts_of(obj),
            "history": [describe(event) for event in obj.events.order_by("-pk")[:HISTORY_SHOWN]],
            "history_shown": HISTORY_SHOWN,
        }
        if contacts.has_view_permission(request):
            context["contacts_url"] = f"{reverse('admin:calls_campaigncontact_changelist')}?batch={obj.pk}"
        if self.has_cancel_permission(request) and not obj.has_ended:
            context["cancel_url"] = self._cancel_url(request, [obj.pk])
        return super().render_change_form(request, context, obj=obj, **kwargs)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The history stands on the batch's own page; Django's would know only of what was done in the admin."""
        return HttpResponseRedirect(reverse("admin:calls_callbatch_change", args=[object_id]) + "#history")

    # Stopping

    def get_urls(self) -> list[URLPattern]:
        cancel = path("cancel/", self.admin_site.admin_view(self.cancel_view), name="calls_callbatch_cancel")
        return [cancel, *super().get_urls()]

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Whether somebody may look at batches, and may cancel them. That they may change them does not matter."""
        return self.has_view_permission(request) and request.user.has_perm("calls.cancel_callbatch")

    @admin.action(description="Cancel selected batches", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        """Lead to the confirmation of what is selected. Nothing is changed yet."""
        ids = list(queryset.values_list("pk", flat=True)[: BATCHES_AT_ONCE + 1])
        if len(ids) > BATCHES_AT_ONCE:
            self.message_user(request, f"Select at most {BATCHES_AT_ONCE} batches at a time.", messages.ERROR)
            return None
        return HttpResponseRedirect(self._cancel_url(request, ids))

    def response_action(  # type: ignore[override]
        self, request: HttpRequest, queryset: QuerySet[CallBatch]
    ) -> HttpResponse | None:
        try:
            return super().response_action(request, queryset)
        except ValidationError:
            self.message_user(request, "That is no selection of batches. Nothing was changed.", messages.ERROR)
            return HttpResponseRedirect(self._list_url(request))

    def cancel_view(self, request: HttpRequest) -> HttpResponse:
        """GET says what cancelling the batches in ``?ids=`` would do; POST does it and says what came of it."""
        if not self.has_cancel_permission(request):
            raise PermissionDenied
        ids = list(dict.fromkeys(filter(None, request.GET.get("ids", "").lower().split(","))))
        if not 1 <= len(ids) <= BATCHES_AT_ONCE:
            self.message_user(request, f"Select 1 to {BATCHES_AT_ONCE} batches to cancel.", messages.ERROR)
            return HttpResponseRedirect(self._list_url(request))
        try:
            batches = self._find(request, ids)
        except BatchUpdateFailed as refusal:
            self.message_user(request, reason(refusal), messages.ERROR)
            return HttpResponseRedirect(self._list_url(request))
        # What the page did not offer is not done, however it has come to be possible meanwhile.
        confirmed = [pk for pk in ids if f"skip-{pk}" in request.POST]
        if confirmed:
            return self._cancel(request, confirmed, batches)
        return self._confirm(request, ids, batches)

    def _find(self, request: HttpRequest, ids: list[str]) -> dict[str, CallBatch]:
        """
        The batches with these ids, by id. An id that is unknown or is none at all is left out.

        :raises BatchUpdateFailed: the database could not say in time.
        """
        known: list[UUID] = []
        for pk in ids:
            try:
                known.append(parse_uuid(pk))
            except ValueError:
                continue
        with as_update_failed(), bounded():
            # Names without a join: a batch is not missed because something that it belongs to is.
            batches = self.get_queryset(request).prefetch_related("agency", "campaign").in_bulk(known)
        return {str(pk): batch for pk, batch in batches.items()}

    def _confirm(self, request: HttpRequest, ids: list[str], batches: dict[str, CallBatch]) -> HttpResponse:
        plans: list[tuple[CallBatch, CancelResult]] = []
        refusals: list[tuple[str, CallBatch | None, str]] = []
        for pk in ids:
            batch = batches.get(pk)
            try:
                if batch is None:
                    raise BatchNotFound
                plans.append((batch, batch.preview_cancel()))
            except CallsError as refusal:
                refusals.append((pk, batch, reason(refusal)))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": f"Cancel {len(plans)} batch{pluralize(len(plans), 'es')}?" if plans else "Nothing to cancel",
            "plans": plans,
            "refusals": refusals,
            "contacts": sum(plan.contacts_skipped for _, plan in plans),
            "back_url": self._back_url(request, ids),
        }
        return TemplateResponse(request, "admin/calls/callbatch/cancel_confirmation.html", context)

    def _cancel(self, request: HttpRequest, ids: list[str], batches: dict[str, CallBatch]) -> HttpResponse:
        actor = Actor.staff(cast(User, request.user))
        done: list[tuple[CallBatch, str]] = []
        for pk in ids:
            batch = batches.get(pk)
            name = name_of(batch) if batch else f"Batch {pk}"
            try:
                if batch is None:
                    raise BatchNotFound
                result = batch.cancel(actor=actor, via=Door.ADMIN)
            except CallsError as refusal:
                level = messages.WARNING if isinstance(refusal, BatchFinished) else messages.ERROR
                self.message_user(request, f"{name}: {reason(refusal)}", level)
            else:
                announced = (request.POST[f"skip-{pk}"], request.POST.get(f"calls-{pk}", ""))
                text = outcome(result, announced)
                self.message_user(request, f"{name}: {text}", messages.SUCCESS)
                done.append((batch, text))
        # Last, so that no failure to note it for the recent actions keeps another batch from being cancelled.
        for batch, text in done:
            self.log_change(request, batch, text)
        return HttpResponseRedirect(self._back_url(request, ids))

    def _cancel_url(self, request: HttpRequest, ids: Iterable[UUID]) -> str:
        query = urlencode({"ids": ",".join(str(pk) for pk in ids)}, safe=",")
        return self._preserve(request, f"{reverse('admin:calls_callbatch_cancel')}?{query}")

    def _list_url(self, request: HttpRequest) -> str:
        return self._preserve(request, reverse("admin:calls_callbatch_changelist"))

    def _back_url(self, request: HttpRequest, ids: list[str]) -> str:
        """A single batch's page, else the list as it was filtered."""
        if len(ids) != 1:
            return self._list_url(request)
        return self._preserve(request, reverse("admin:calls_callbatch_change", args=ids))

    def _preserve(self, request: HttpRequest, url: str) -> str:
        filters: Any = {"preserved_filters": self.get_preserved_filters(request), "opts": self.opts}
        return add_preserved_filters(filters, url)
