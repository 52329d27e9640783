"""The batches: a list, a page each, and the way to stop them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.timesince import timesince

from calls.actors import Actor, Door
from calls.admin.display import describe, name_of, outcome, parts_of, reason
from calls.admin.lists import OfferedFilter, ReadOnlyAdmin, StatusFilter
from calls.exceptions import BatchFinished, BatchNotFound, CallsError
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
    list_max_show_all = BATCHES_AT_ONCE
    date_hierarchy = "created_at"
    ordering = ["-created_at", "-id"]
    search_fields = ["id"]
    search_help_text = "A batch's id, a whole phone number (called or calling), or a part of an agency's name."
    actions = ["cancel_selected"]
    fieldsets = [
        (
            "What happened, and when",
            {"fields": ["created_at", "scheduled_for", "started_at", "paused_at", "completed_at", "error_message"]},
        ),
        ("How it calls", {"fields": ["agent_mapping", "from_number", "mode", "calls_per_minute", "max_concurrent"]}),
    ]

    class Media:
        css = {"all": ["calls/admin.css"]}

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
        found = Q(agency__name__icontains=term) | Q(agency__slug__icontains=term)
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
        return render_to_string("admin/calls/callbatch/progress.html", {"parts": parts_of(batch)})

    @admin.display(description="Age", ordering="-created_at")
    def age(self, batch: CallBatch) -> str | None:
        # Another service's table may have batches without a time.
        made = batch.created_at
        return (
            format_html('<time datetime="{}">{}</time>', made.isoformat(), timesince(made, depth=1)) if made else None
        )

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
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
        return super().render_change_form(request, context, add, change, form_url, obj)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The history stands on the batch's own page; Django's page of edits would always be empty."""
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

    def cancel_view(self, request: HttpRequest) -> HttpResponse:
        """GET says what cancelling the batches in ``?ids=`` would do; POST does it and says what came of it."""
        if not self.has_cancel_permission(request):
            raise PermissionDenied
        ids = list(dict.fromkeys(filter(None, request.GET.get("ids", "").lower().split(","))))
        if not 1 <= len(ids) <= BATCHES_AT_ONCE:
            self.message_user(request, f"Select 1 to {BATCHES_AT_ONCE} batches to cancel.", messages.ERROR)
            return HttpResponseRedirect(self._list_url(request))
        if request.method == "POST":
            return self._cancel(request, ids)
        return self._confirm(request, ids)

    def _find(self, request: HttpRequest, ids: list[str]) -> dict[str, CallBatch]:
        """The batches with these ids, by id. An id that is unknown or is none at all is left out."""
        known: list[UUID] = []
        for pk in ids:
            try:
                known.append(parse_uuid(pk))
            except ValueError:
                continue
        batches = self.get_queryset(request).select_related("agency", "campaign").in_bulk(known)
        return {str(pk): batch for pk, batch in batches.items()}

    def _confirm(self, request: HttpRequest, ids: list[str]) -> HttpResponse:
        batches = self._find(request, ids)
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
            "title": "Cancel this batch?" if len(ids) == 1 else f"Cancel these {len(ids)} batches?",
            "plans": plans,
            "refusals": refusals,
            "contacts": sum(plan.contacts_skipped for _, plan in plans),
            "back_url": self._back_url(request, list(batches.values())),
        }
        return TemplateResponse(request, "admin/calls/callbatch/cancel_confirmation.html", context)

    def _cancel(self, request: HttpRequest, ids: list[str]) -> HttpResponse:
        batches = self._find(request, ids)
        actor = Actor.staff(cast(User, request.user))
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
                announced = request.POST.get(f"skip-{pk}", "")
                self.message_user(request, f"{name}: {outcome(result, announced)}", messages.SUCCESS)
        return HttpResponseRedirect(self._back_url(request, list(batches.values())))

    def _cancel_url(self, request: HttpRequest, ids: Iterable[UUID]) -> str:
        query = urlencode({"ids": ",".join(str(pk) for pk in ids)}, safe=",")
        return self._preserve(request, f"{reverse('admin:calls_callbatch_cancel')}?{query}")

    def _list_url(self, request: HttpRequest) -> str:
        return self._preserve(request, reverse("admin:calls_callbatch_changelist"))

    def _back_url(self, request: HttpRequest, batches: list[CallBatch]) -> str:
        """A single batch's page, else the list as it was filtered."""
        if len(batches) != 1:
            return self._list_url(request)
        return self._preserve(request, reverse("admin:calls_callbatch_change", args=[batches[0].pk]))

    def _preserve(self, request: HttpRequest, url: str) -> str:
        filters: Any = {"preserved_filters": self.get_preserved_filters(request), "opts": self.opts}
        return add_preserved_filters(filters, url)
