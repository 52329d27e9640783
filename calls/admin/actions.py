"""What may be done to batches: an action of the list and a button on a batch's page, and a confirmation after both."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, ClassVar, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import Error
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from calls.admin.base import ReadOnlyAdmin
from calls.admin.display import name_of, reason
from calls.audit import Actor, Source
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchNotFound, BatchRefused, BatchUpdateFailed, CallsError
from calls.models import CallBatch, CancelResult, PauseResult
from calls.parsing import parse_uuid
from calls.statuses import PAUSABLE, BatchStatus

logger = logging.getLogger(__name__)

# How many batches one confirmation takes: a page of the list, each dealt with in its own transaction while somebody
# waits for the answer.
BATCHES_AT_ONCE = 50


def counted(number: int, thing: str, things: str = "s") -> str:
    return f"{number} {thing}{pluralize(number, things)}"


class Verb:
    """One method of a batch, and what the admin says before and after it."""

    name: ClassVar[str]
    done: ClassVar[str]
    warning: ClassVar[str]
    columns: ClassVar[dict[str, str]]
    """What the confirmation shows of the method's result: a heading, and the result's attribute."""
    dangerous: ClassVar[bool] = False

    def applies_to(self, batch: CallBatch) -> bool:
        """Whether a batch's page has the button."""
        raise NotImplementedError

    def button(self, results: list[Any]) -> str:
        return f"{self.name.title()} {counted(len(results), 'batch', 'es')}"

    def outcome(self, result: Any, announced: list[str]) -> str:
        """What was done; ``announced`` are the numbers that the confirmation had shown."""
        raise NotImplementedError

    def numbers(self, result: Any) -> list[int]:
        return [getattr(result, attribute) for attribute in self.columns.values()]

    def preview(self, batch: CallBatch) -> Any:
        return getattr(batch, f"preview_{self.name}")()

    def perform(self, batch: CallBatch, actor: Actor) -> Any:
        return getattr(batch, self.name)(actor=actor, source=Source.ADMIN)


class Cancel(Verb):
    name, done = "cancel", "cancelled"
    warning = "Every contact not yet called is skipped. Calls in progress go on until they end. This cannot be undone."
    columns = {"Contacts to skip": "contacts_skipped", "Calls that will finish": "in_progress"}
    dangerous = True

    def applies_to(self, batch: CallBatch) -> bool:
        return not batch.has_ended

    def button(self, results: list[CancelResult]) -> str:
        skipped = sum(result.contacts_skipped for result in results)
        return f"Skip {counted(skipped, 'contact')} in {counted(len(results), 'batch', 'es')}"

    def outcome(self, result: CancelResult, announced: list[str]) -> str:
        text = (
            f"cancelled. {counted(result.contacts_skipped, 'contact')} skipped; "
            f"{counted(result.in_progress, 'call')} in progress will finish."
        )
        changed = announced != [str(number) for number in self.numbers(result)]
        if changed and len(announced) == len(self.columns) and all(map(str.isdecimal, announced)):
            text += f" The confirmation page had said {' and '.join(announced)}: that had changed meanwhile."
        return text


class Pause(Verb):
    name, done = "pause", "paused"
    warning = "No new call starts until the batch is resumed. Calls in progress go on until they end."
    columns = {"Contacts that wait": "queued", "Calls that will finish": "in_progress"}

    def applies_to(self, batch: CallBatch) -> bool:
        return batch.status in PAUSABLE

    def outcome(self, result: PauseResult, announced: list[str]) -> str:
        return (
            f"paused. {counted(result.queued, 'contact')} left to call; "
            f"{counted(result.in_progress, 'call')} in progress will finish."
        )


class Resume(Verb):
    name, done = "resume", "resumed"
    warning = "People are called again: at the batch's scheduled time while that is ahead, else now."
    columns = {"Contacts to call": "queued"}

    def applies_to(self, batch: CallBatch) -> bool:
        return bool(batch.status == BatchStatus.PAUSED)

    def outcome(self, result: PauseResult, announced: list[str]) -> str:
        return f"resumed, and {result.status} again. {counted(result.queued, 'contact')} left to call."


PAUSE, RESUME, CANCEL = VERBS = Pause(), Resume(), Cancel()


class BatchVerbsAdmin(ReadOnlyAdmin):
    """The verbs of batches, each with a permission of its own: that somebody may change batches does not matter."""

    actions = ["pause_selected", "resume_selected", "cancel_selected"]

    def get_urls(self) -> list[URLPattern]:
        verbs = [
            path(f"{verb.name}/", self.admin_site.admin_view(self.verb_view), {"verb": verb}, self._url_name(verb))
            for verb in VERBS
        ]
        return [*verbs, *super().get_urls()]

    def may(self, request: HttpRequest, verb: Verb) -> bool:
        """Whether somebody may look at batches, and may do this to them."""
        return self.has_view_permission(request) and request.user.has_perm(f"calls.{verb.name}_callbatch")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self.may(request, CANCEL)

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return self.may(request, PAUSE)

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return self.may(request, RESUME)

    @admin.action(description="Cancel selected batches", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        return self._confirm_selected(request, queryset, CANCEL)

    @admin.action(description="Pause selected batches", permissions=["pause"])
    def pause_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        return self._confirm_selected(request, queryset, PAUSE)

    @admin.action(description="Resume selected batches", permissions=["resume"])
    def resume_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> HttpResponse | None:
        return self._confirm_selected(request, queryset, RESUME)

    def buttons(self, request: HttpRequest, batch: CallBatch) -> list[dict[str, Any]]:
        """What the batch's page offers to do with it."""
        return [
            {"label": f"{verb.name.title()} batch", "url": self._verb_url(request, verb, [batch.pk]), "verb": verb}
            for verb in VERBS
            if self.may(request, verb) and verb.applies_to(batch)
        ]

    def selected(self, request: HttpRequest, queryset: QuerySet[CallBatch]) -> list[UUID] | None:
        """The ids of what is selected; None, and a message, if that is too much at a time."""
        ids = list(queryset.values_list("pk", flat=True)[: BATCHES_AT_ONCE + 1])
        if len(ids) > BATCHES_AT_ONCE:
            self.message_user(request, f"Select at most {BATCHES_AT_ONCE} batches at a time.", messages.ERROR)
            return None
        return ids

    def _confirm_selected(self, request: HttpRequest, queryset: QuerySet[CallBatch], verb: Verb) -> HttpResponse | None:
        """Lead to the confirmation of what is selected. Nothing is changed yet."""
        ids = self.selected(request, queryset)
        return HttpResponseRedirect(self._verb_url(request, verb, ids)) if ids else None

    def response_action(  # type: ignore[override]
        self, request: HttpRequest, queryset: QuerySet[CallBatch]
    ) -> HttpResponse | None:
        try:
            return super().response_action(request, queryset)
        except ValidationError:
            self.message_user(request, "That is no selection of batches. Nothing was changed.", messages.ERROR)
            return HttpResponseRedirect(self.list_url(request))

    def verb_view(self, request: HttpRequest, verb: Verb) -> HttpResponse:
        """GET says what the verb would do to the batches in ``?ids=``; POST does it and says what came of it."""
        if not self.may(request, verb):
            raise PermissionDenied
        ids = self.ids_asked_for(request)
        if not 1 <= len(ids) <= BATCHES_AT_ONCE:
            self.message_user(request, f"Select 1 to {BATCHES_AT_ONCE} batches to {verb.name}.", messages.ERROR)
            return HttpResponseRedirect(self.list_url(request))
        try:
            batches = self.find(request, ids)
        except BatchUpdateFailed as refusal:
            self.message_user(request, reason(refusal), messages.ERROR)
            return HttpResponseRedirect(self.list_url(request))
        # What the page did not offer is not done, however it has come to be possible meanwhile.
        confirmed = [pk for pk in ids if f"confirm-{pk}" in request.POST]
        if confirmed:
            return self._perform(request, verb, confirmed, batches)
        return self._confirm(request, verb, ids, batches)

    def ids_asked_for(self, request: HttpRequest) -> list[str]:
        ids = (pk.strip() for pk in request.GET.get("ids", "").lower().split(","))
        return list(dict.fromkeys(filter(None, ids)))

    def find(self, request: HttpRequest, ids: list[str]) -> dict[str, CallBatch]:
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
        with database_errors_as(BatchUpdateFailed), transaction_with_timeouts():
            batches = self.get_queryset(request).in_bulk(known)
        return {str(pk): batch for pk, batch in batches.items()}

    def _confirm(self, request: HttpRequest, verb: Verb, ids: list[str], batches: dict[str, CallBatch]) -> HttpResponse:
        plans: list[tuple[CallBatch, list[tuple[str, int]]]] = []
        results: list[Any] = []
        refusals: list[tuple[str, CallBatch | None, str]] = []
        for pk in ids:
            batch = batches.get(pk)
            try:
                if batch is None:
                    raise BatchNotFound
                result = verb.preview(batch)
            except CallsError as refusal:
                refusals.append((pk, batch, reason(refusal)))
            else:
                results.append(result)
                plans.append((batch, list(zip(verb.columns, verb.numbers(result), strict=True))))
        title = f"{verb.name.title()} {counted(len(plans), 'batch', 'es')}?" if plans else f"Nothing to {verb.name}"
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": title,
            "verb": verb,
            "plans": plans,
            "refusals": refusals,
            "button": verb.button(results),
            "back_url": self._back_url(request, ids),
        }
        return TemplateResponse(request, "admin/calls/callbatch/confirmation.html", context)

    def _perform(self, request: HttpRequest, verb: Verb, ids: list[str], batches: dict[str, CallBatch]) -> HttpResponse:
        actor = Actor.staff(cast(User, request.user))
        done: list[tuple[CallBatch, str]] = []
        for pk in ids:
            batch = batches.get(pk)
            name = name_of(batch) if batch else f"Batch {pk}"
            try:
                if batch is None:
                    raise BatchNotFound
                result = verb.perform(batch, actor)
            except CallsError as refusal:
                level = messages.WARNING if isinstance(refusal, BatchRefused) else messages.ERROR
                self.message_user(request, f"{name}: {reason(refusal)}", level)
            else:
                text = verb.outcome(result, request.POST[f"confirm-{pk}"].split())
                self.message_user(request, f"{name}: {text}", messages.SUCCESS)
                done.append((batch, text))
        # Last, so that no failure to note it for the recent actions keeps another batch from being dealt with.
        for batch, text in done:
            try:
                with transaction_with_timeouts():
                    self.log_change(request, batch, text)
            except Error as error:
                logger.warning("recent actions are not noted: %s", type(error).__name__)
        return HttpResponseRedirect(self._back_url(request, ids))

    def _url_name(self, verb: Verb) -> str:
        return f"calls_callbatch_{verb.name}"

    def _verb_url(self, request: HttpRequest, verb: Verb, ids: Iterable[UUID]) -> str:
        return self.preserve(request, with_ids(reverse(f"admin:{self._url_name(verb)}"), ids))

    def list_url(self, request: HttpRequest) -> str:
        return self.preserve(request, reverse("admin:calls_callbatch_changelist"))

    def _back_url(self, request: HttpRequest, ids: list[str]) -> str:
        """A single batch's page, else the list as it was filtered."""
        try:
            (only,) = map(parse_uuid, ids)
        except ValueError:
            return self.list_url(request)
        return self.preserve(request, reverse("admin:calls_callbatch_change", args=[only]))

    def preserve(self, request: HttpRequest, url: str) -> str:
        filters: Any = {"preserved_filters": self.get_preserved_filters(request), "opts": self.opts}
        return add_preserved_filters(filters, url)


def with_ids(url: str, ids: Iterable[UUID]) -> str:
    return f"{url}?{urlencode({'ids': ','.join(str(pk) for pk in ids)}, safe=',')}"
