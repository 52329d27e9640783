"""What an operator can do to all batches of an agency: hold, release, and cancel all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from calls.admin.actions import CANCEL
from calls.admin.base import ReadOnlyAdmin
from calls.admin.confirmation import ReasonForm
from calls.admin.display import batch_name, counted, refusal_text
from calls.admin.holds import on_hold
from calls.admin.pages import ObjectFormView
from calls.audit import Actor, Source
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchReadFailed, CallsError
from calls.models import Agency, CallBatch, CancelResult

# The most messages about single batches after a cancel of all batches.
MAX_MESSAGES = 20


class AgencyActionView(ObjectFormView[Agency]):
    """A page with a button that does something to one agency. Only a POST changes anything."""

    form_class: type[forms.Form] = ReasonForm
    template_name = "admin/calls/agency/confirmation.html"

    title: ClassVar[str]
    warning: ClassVar[str]
    button: ClassVar[str]
    is_dangerous: ClassVar[bool] = True

    @classmethod
    def is_permitted(cls, request: HttpRequest, model_admin: ReadOnlyAdmin) -> bool:
        """Return whether the user may look at agencies and may do this."""
        return model_admin.has_view_permission(request) and request.user.has_perm("calls.hold_agency")

    def perform(self, actor: Actor, reason: str | None) -> None:
        """Do it, and tell the user. May raise :class:`CallsError`."""
        raise NotImplementedError

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = {
            "title": f"{self.title}: {self.object}",
            "errors": kwargs["form"].errors.get("reason") if "form" in kwargs else None,
            "held_agencies": on_hold([self.object]),
        }
        return super().get_context_data(**kwargs | context)

    def form_valid(self, form: forms.Form) -> HttpResponse:
        try:
            self.perform(Actor.staff(cast(User, self.request.user)), form.cleaned_data.get("reason") or None)
        except CallsError as refusal:
            self.model_admin.message_user(self.request, refusal_text(refusal), messages.ERROR)
        return HttpResponseRedirect(self.page_url)

    def report(self, text: str, level: int = messages.SUCCESS) -> None:
        """Show what was done, and add it to the recent actions."""
        self.model_admin.message_user(self.request, text, level)
        self.model_admin.log_recent_action(self.request, self.object, text)


class HoldView(AgencyActionView):
    title, button = "Hold", "Hold agency"
    warning = (
        "No call starts in any batch of the agency, now or later, until it is released. Calls in progress continue "
        "until they end. Batches keep their status."
    )

    def perform(self, actor: Actor, reason: str | None) -> None:
        result = self.object.hold(actor=actor, source=Source.ADMIN, reason=reason)
        self.report(f"{self.object} is on hold. {counted(result.in_progress, 'call')} in progress will finish.")


class ReleaseView(AgencyActionView):
    form_class = forms.Form
    title, button, is_dangerous = "Release", "Release agency", False
    warning = "Calls start again in all batches of the agency that are not paused, cancelled or scheduled for later."

    def perform(self, actor: Actor, reason: str | None) -> None:
        self.object.release(actor=actor, source=Source.ADMIN)
        self.report(f"{self.object} has been released.")


class CancelAllView(AgencyActionView):
    """
    Cancel every batch of the agency that can be cancelled.

    GET shows what this would do to each batch. POST does not depend on what GET has shown.
    """

    title, button = "Cancel all batches", "Cancel all batches of this agency"
    warning = CANCEL.warning

    @classmethod
    def is_permitted(cls, request: HttpRequest, model_admin: ReadOnlyAdmin) -> bool:
        """Return whether the user may look at agencies and batches and may cancel batches."""
        return model_admin.has_view_permission(request) and CANCEL.is_permitted(
            request, site.get_model_admin(CallBatch)
        )

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        results: dict[UUID, CancelResult] = {}
        errors: dict[UUID, CallsError] = {}
        batches: dict[UUID, CallBatch] = {}
        try:
            for batch, outcome in CallBatch.objects.for_agency(self.object.pk).preview_cancel_all():
                if isinstance(outcome, CallsError):
                    errors[batch.pk] = outcome
                else:
                    results[batch.pk] = outcome
            batches = _read_with_names([*results, *errors])
            summary = _summary(list(results.values()), len(errors))
        except CallsError:
            summary = "The numbers could not be read. You can still cancel the batches."
        context = {
            "action": CANCEL,
            "plans": [
                (batches[pk], list(zip(CANCEL.columns, CANCEL.numbers(result), strict=True)))
                for pk, result in results.items()
                if pk in batches
            ],
            "refusals": [(pk, batches.get(pk), refusal_text(error)) for pk, error in errors.items()],
            "summary": summary,
        }
        return super().get_context_data(**kwargs | context)

    def perform(self, actor: Actor, reason: str | None) -> None:
        done: list[CancelResult] = []
        failed: dict[UUID, CallsError] = {}
        batches = CallBatch.objects.for_agency(self.object.pk)
        for batch, outcome in batches.cancel_all(actor=actor, source=Source.ADMIN, reason=reason):
            if isinstance(outcome, CallsError):
                failed[batch.pk] = outcome
            else:
                done.append(outcome)
        if not done and not failed:
            self.model_admin.message_user(self.request, f"{self.object} has no batch to cancel.", messages.INFO)
            return
        text = f"{counted(len(done), 'batch', 'es')} cancelled, {_effects(done, 'skipped')}."
        if failed:
            text += f" {counted(len(failed), 'batch', 'es')} could not be cancelled."
        self.report(text, messages.WARNING if failed else messages.SUCCESS)
        self._show_failed(failed)

    def _show_failed(self, failed: dict[UUID, CallsError]) -> None:
        shown = list(failed)[:MAX_MESSAGES]
        try:
            batches = _read_with_names(shown)
        except CallsError:
            batches = {}
        for pk in shown:
            name = batch_name(batches[pk]) if pk in batches else f"Batch {pk}"
            self.model_admin.message_user(self.request, f"{name}: {refusal_text(failed[pk])}", messages.ERROR)
        if len(failed) > len(shown):
            others = counted(len(failed) - len(shown), "more batch", "es")
            self.model_admin.message_user(self.request, f"{others} could not be cancelled.", messages.ERROR)


@database_errors_as(BatchReadFailed)
def _read_with_names(ids: Iterable[UUID]) -> dict[UUID, CallBatch]:
    """
    Return the batches with these ids, with their agencies and campaigns.

    :raises BatchReadFailed: a database error or timeout.
    """
    with transaction_with_timeouts():
        return CallBatch.objects.prefetch_related("agency", "campaign").in_bulk(list(ids))


def _effects(results: Sequence[CancelResult], verb: str) -> str:
    skipped = sum(result.contacts_skipped for result in results)
    in_progress = sum(result.in_progress for result in results)
    return f"{counted(skipped, 'contact')} {verb}; {counted(in_progress, 'call')} in progress will finish"


def _summary(results: Sequence[CancelResult], unknown: int) -> str:
    if not results and not unknown:
        return "The agency has no batch to cancel."
    text = f"{counted(len(results), 'batch', 'es')} to cancel, {_effects(results, 'to skip')}."
    if unknown:
        text += (
            f" The numbers of {counted(unknown, 'batch', 'es')} could not be read; a cancel will still be attempted."
        )
    return text


# In the order of the buttons on an agency's page, by the name of the URL.
AGENCY_ACTIONS: dict[str, type[AgencyActionView]] = {
    "hold": HoldView,
    "release": ReleaseView,
    "cancel_all": CancelAllView,
}
