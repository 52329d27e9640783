"""The confirmation page between an action on batches and its execution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.contrib.auth.models import User
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from calls.admin.actions import BatchAction
from calls.admin.display import batch_name, counted, refusal_text
from calls.admin.holds import held_agencies
from calls.admin.pages import AdminFormView
from calls.admin.selection import BATCHES_AT_ONCE, SelectionForm, find_batches
from calls.audit import Actor
from calls.database.transactions import database_errors_as
from calls.exceptions import BatchNotFound, BatchRefused, BatchUpdateFailed, CallsError
from calls.inputs import MAX_REASON
from calls.models import CallBatch


class ReasonForm(forms.Form):
    """Why the operator stops calls."""

    reason = forms.CharField(
        required=False,
        max_length=MAX_REASON,
        help_text=f"Optional, at most {MAX_REASON} characters. Kept in the history.",
    )


class ConfirmationForm(ReasonForm):
    """
    The reason, the ids of the batches that the page offered, and the numbers that it showed for each.

    The last two are hidden. An action that takes no reason has no field for it.
    """

    SALT = "calls.admin.confirmation"

    batch_ids = forms.MultipleChoiceField(widget=forms.MultipleHiddenInput)
    announced = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, ids: Iterable[str], takes_reason: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not takes_reason:
            del self.fields["reason"]
        cast(forms.MultipleChoiceField, self.fields["batch_ids"]).choices = [(pk, pk) for pk in ids]

    @classmethod
    def offering(cls, announced: dict[str, list[int]], *, takes_reason: bool, reason: str) -> ConfirmationForm:
        """Return an unbound form that offers the batches in ``announced``."""
        signed = signing.dumps(announced, salt=cls.SALT)
        initial = {"batch_ids": list(announced), "announced": signed, "reason": reason}
        return cls(ids=announced, takes_reason=takes_reason, initial=initial)

    def clean_announced(self) -> dict[str, list[int]]:
        """Return the announced numbers. Without a valid signature they are ignored: they are only for the message."""
        try:
            return cast(dict[str, list[int]], signing.loads(self.cleaned_data["announced"], salt=self.SALT))
        except signing.BadSignature:
            return {}


class ConfirmationView(AdminFormView):
    """
    Ask the operator to confirm an action on the batches in ``?ids=``, then perform it.

    GET shows what the action would do to each batch. POST performs it on the batches that the page offered, each in its
    own transaction, with one message per batch. A POST that confirms nothing shows the page again.
    """

    form_class = ConfirmationForm
    template_name = "admin/calls/callbatch/confirmation.html"

    # Set by as_view().
    action: BatchAction[Any] = None  # type: ignore[assignment]

    ids: list[str]
    batches: dict[str, CallBatch]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.action.is_permitted(request, self.model_admin):
            raise PermissionDenied
        selection = SelectionForm(request.GET)
        if not selection.is_valid():
            return self._back_to_list(f"Select 1 to {BATCHES_AT_ONCE} batches to {self.action.name}.")
        self.ids = selection.cleaned_data["ids"]
        try:
            with database_errors_as(BatchUpdateFailed):
                self.batches = find_batches(self.model_admin.get_queryset(request), self.ids)
        except BatchUpdateFailed as refusal:
            return self._back_to_list(refusal_text(refusal))
        return super().dispatch(request, *args, **kwargs)

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"ids": self.ids, "takes_reason": self.action.takes_reason}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        results: dict[str, Any] = {}
        refusals: list[tuple[str, CallBatch | None, str]] = []
        for pk in self.ids:
            try:
                results[pk] = self.action.preview(self._get_batch(pk))
            except CallsError as refusal:
                refusals.append((pk, self.batches.get(pk), refusal_text(refusal)))
        numbers = {pk: self.action.numbers(result) for pk, result in results.items()}
        name = self.action.name
        context = {
            "title": f"{name.title()} {counted(len(results), 'batch', 'es')}?" if results else f"Nothing to {name}",
            "action": self.action,
            "plans": [(self.batches[pk], list(zip(self.action.columns, numbers[pk], strict=True))) for pk in results],
            "refusals": refusals,
            # Use a new form even if the posted form is invalid: the next POST confirms what the page shows now.
            "form": ConfirmationForm.offering(
                numbers, takes_reason=self.action.takes_reason, reason=self.request.POST.get("reason", "")
            ),
            "errors": kwargs["form"].errors.get("reason") if "form" in kwargs else None,
            "held_agencies": held_agencies(self.batches.values()),
            "button": self.action.button(list(results.values())),
            "back_url": self._back_url(self.ids),
        }
        return super().get_context_data(**kwargs | context)

    def form_valid(self, form: ConfirmationForm) -> HttpResponse:
        actor = Actor.staff(cast(User, self.request.user))
        confirmed = [pk for pk in self.ids if pk in form.cleaned_data["batch_ids"]]
        reason = form.cleaned_data.get("reason") or None
        done: list[tuple[CallBatch, str]] = []
        for pk in confirmed:
            try:
                batch = self._get_batch(pk)
                result = self.action.perform(batch, actor, reason)
            except CallsError as refusal:
                level = messages.WARNING if isinstance(refusal, BatchRefused) else messages.ERROR
                self._show_message(pk, refusal_text(refusal), level)
            else:
                text = self.action.outcome(result, form.cleaned_data["announced"].get(pk))
                self._show_message(pk, text, messages.SUCCESS)
                done.append((batch, text))
        # Log at the end, so that an error here cannot prevent the action on another batch.
        for batch, text in done:
            self.model_admin.log_recent_action(self.request, batch, text)
        return HttpResponseRedirect(self._back_url(confirmed))

    def _get_batch(self, pk: str) -> CallBatch:
        try:
            return self.batches[pk]
        except KeyError:
            raise BatchNotFound from None

    def _show_message(self, pk: str, text: str, level: int) -> None:
        name = batch_name(self.batches[pk]) if pk in self.batches else f"Batch {pk}"
        self.model_admin.message_user(self.request, f"{name}: {text}", level)

    def _back_to_list(self, error: str) -> HttpResponse:
        self.model_admin.message_user(self.request, error, messages.ERROR)
        return HttpResponseRedirect(self.model_admin.list_url(self.request))

    def _back_url(self, ids: list[str]) -> str:
        """Return the page of a single batch, otherwise the list as it was filtered."""
        if len(ids) == 1 and ids[0] in self.batches:
            url = reverse("admin:calls_callbatch_change", args=ids)
            return self.model_admin.with_preserved_filters(self.request, url)
        return self.model_admin.list_url(self.request)
