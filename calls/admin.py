"""The operators' door: see a batch, and stop it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet, TextChoices
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import pluralize
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timesince import timesince

from calls.actors import Actor, Door
from calls.exceptions import BatchFinished, BatchNotFound, CallsError
from calls.identifiers import parse_phone_number, parse_uuid
from calls.models import Agency, CallBatch, CallBatchEvent, CampaignContact, CancelResult
from calls.statuses import BatchStatus, ContactStatus

admin.site.site_header = admin.site.site_title = "Outbound calls"
# A bar of parts needs the width, and two lists no menu.
admin.site.enable_nav_sidebar = False

# How many batches one confirmation takes: a page of the list, each cancelled in its own transaction while somebody
# waits for the answer.
BATCHES_AT_ONCE = 50

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


class BatchStatusFilter(StatusFilter):
    statuses = BatchStatus


class AgencyFilter(OfferedFilter):
    title = parameter_name = "agency"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return Agency.objects.order_by("name").values_list("slug", "name")

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(agency__slug=value)


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


# The parts of a batch, in the order of the bar: the batch's counter, how it is called, the contacts' filter for it.
PARTS = [
    ("completed", "completed", ContactStatus.COMPLETED),
    ("failed", "failed", ContactStatus.FAILED),
    ("skipped", "skipped", ContactStatus.SKIPPED),
    ("in_progress", "in progress", ContactStatus.IN_PROGRESS),
    ("queued", "left", ContactStatusFilter.LEFT),
]


def parts_of(batch: CallBatch) -> list[dict[str, Any]]:
    """The parts of a batch's bar, from its counters: each with its number, and where it starts and ends in percent."""
    counts = [max(getattr(batch, counter) or 0, 0) for counter, _, _ in PARTS]
    total = sum(counts) or 1
    ends = [sum(counts[: index + 1]) * 100 / total for index in range(len(counts))]
    return [
        {
            "key": counter,
            "label": label,
            "status": status,
            "count": count,
            "start": f"{end - count * 100 / total:.3f}%",
            "width": f"{count * 100 / total:.3f}%",
            "end": f"{end:.3f}%",
        }
        for (counter, label, status), count, end in zip(PARTS, counts, ends, strict=True)
    ]


def name_of(batch: CallBatch) -> str:
    return f"Batch {batch.pk} ({batch.agency}, {batch.campaign})"


def reason(refusal: CallsError) -> str:
    """Why a batch was not cancelled, and for one that has ended since when."""
    if isinstance(refusal, BatchFinished) and refusal.batch.completed_at:
        return f"{refusal}, since {date_format(refusal.batch.completed_at, 'DATETIME_FORMAT')}"
    return str(refusal)


def outcome(result: CancelResult, announced: str) -> str:
    """What a cancel did; and that its numbers are others than the confirmation page ``announced``, if they are."""
    skipped, calls = result.contacts_skipped, result.in_progress
    text = (
        f"cancelled. {skipped} contact{pluralize(skipped)} skipped; "
        f"{calls} call{pluralize(calls)} in progress will finish."
    )
    if announced.isdecimal() and announced != str(skipped):
        text += f" The confirmation page had said {announced}, which had changed meanwhile."
    return text


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
    def age(self, batch: CallBatch) -> str:
        return format_html(
            '<time datetime="{}">{}</time>', batch.created_at.isoformat(), timesince(batch.created_at, depth=1)
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
                self.message_user(request, f"{name}: {reason(refusal)}. Nothing was changed.", level)
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


# How many of a batch's latest events its page shows. A batch that nobody pauses in a loop has far fewer.
HISTORY_SHOWN = 100


def describe(event: CallBatchEvent) -> dict[str, Any]:
    """One row of the history as a person reads it. Without a context somebody wrote the table by other means."""
    said = event.pgh_context or {}
    actor = said.get("actor") or {}
    return {
        "when": event.pgh_created_at,
        "what": "Created" if event.pgh_label == "created" else event.get_status_display(),
        "who": actor.get("label") or actor.get("id"),
        "kind": actor.get("kind", "").replace("_", " "),
        "door": said.get("via"),
        "skipped": said.get("contacts_skipped"),
    }


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts, and leafs through, the first 10,000 rows at most: what comes after is found by filter and search."""

    LIMIT = 10_000

    @cached_property
    def count(self) -> int:
        return cast("QuerySet[Any]", self.object_list)[: self.LIMIT].count()


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
