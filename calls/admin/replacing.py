"""The page that creates a batch with the contacts that the cancel of another batch skipped."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from calls.admin.base import ReadOnlyAdmin
from calls.admin.display import batch_name, counted, refusal_text
from calls.admin.holds import held_agencies
from calls.admin.pages import ObjectFormView
from calls.audit import Actor, Source
from calls.database.transactions import database_errors_as
from calls.exceptions import BatchCreateFailed, CallsError, FieldInvalid
from calls.inputs import REPLACEMENT_DEFAULTS, NewReplacement
from calls.models import AgencyPhoneNumber, AgentMapping, CallBatch, Campaign
from calls.statuses import BatchStatus


def can_be_replaced(batch: CallBatch) -> bool:
    """Return whether the batch was cancelled and not replaced, when it was read ``with_replacement``."""
    return batch.status == BatchStatus.CANCELLED and cast(Any, batch).replacement_id is None


class ReplacementForm(forms.Form):
    """What can differ from the cancelled batch, filled in with its values."""

    agent_mapping_id = forms.ModelChoiceField(AgentMapping.objects.none(), label="Agent")
    campaign_id = forms.ModelChoiceField(Campaign.objects.none(), label="Campaign")
    from_number = forms.ChoiceField(label="Caller id", choices=())
    calls_per_minute = forms.IntegerField(min_value=1, max_value=60)
    max_concurrent = forms.IntegerField(min_value=1, max_value=100, label="Maximum calls at once")
    scheduled_for = forms.DateTimeField(
        required=False,
        label="Start time",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text="In UTC. Leave empty to start calls at once; a time in the past does the same.",
    )

    def __init__(self, *args: Any, agency_id: UUID, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast(Any, self.fields["agent_mapping_id"]).queryset = AgentMapping.objects.filter(agency=agency_id)
        cast(Any, self.fields["campaign_id"]).queryset = Campaign.objects.filter(agency=agency_id)
        active = AgencyPhoneNumber.objects.filter(agency=agency_id, is_active=True).order_by("phone_number")
        numbers = list(active.values_list("phone_number", flat=True))
        # The empty choice is selected if the batch's own number is not active any more.
        cast(Any, self.fields["from_number"]).choices = [("", "---------"), *zip(numbers, numbers, strict=True)]

    def new_replacement(self, batch: CallBatch) -> NewReplacement:
        """:raises FieldInvalid: a value is invalid."""
        values = self.cleaned_data
        return NewReplacement.parse(
            {
                "replaces": batch.pk,
                "agent_mapping_id": values["agent_mapping_id"].pk,
                "campaign_id": values["campaign_id"].pk,
                **{
                    name: values[name]
                    for name in ("from_number", "calls_per_minute", "max_concurrent", "scheduled_for")
                },
            }
        )


class ReplaceView(ObjectFormView[CallBatch]):
    """Replace one cancelled batch. Only a POST changes anything."""

    form_class = ReplacementForm
    template_name = "admin/calls/callbatch/replace.html"

    @classmethod
    def is_permitted(cls, request: HttpRequest, model_admin: ReadOnlyAdmin) -> bool:
        """Return whether the user may look at batches and may replace them."""
        return model_admin.has_view_permission(request) and request.user.has_perm("calls.replace_callbatch")

    def get_initial(self) -> dict[str, Any]:
        return {name: getattr(self.object, name) for name in REPLACEMENT_DEFAULTS}

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"agency_id": self.object.agency_id}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = {
            "title": "Create a replacement",
            "batch_name": batch_name(self.object),
            "held_agencies": held_agencies([self.object]),
        }
        return super().get_context_data(**kwargs | context)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not can_be_replaced(self.object):
            text = "Only a cancelled batch that has not been replaced can be replaced."
            self.model_admin.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(self.page_url)
        return super().get(request, *args, **kwargs)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            # The form reads the agency's agents, campaigns and numbers.
            with database_errors_as(BatchCreateFailed):
                return super().post(request, *args, **kwargs)
        except CallsError as refusal:
            self.model_admin.message_user(request, refusal_text(refusal), messages.ERROR)
            return HttpResponseRedirect(self.page_url)

    def form_valid(self, form: ReplacementForm) -> HttpResponse:
        try:
            new = form.new_replacement(self.object)
            actor = Actor.staff(cast(User, self.request.user))
            created = self.object.replace(new, actor=actor, source=Source.ADMIN).batch
        except FieldInvalid as invalid:
            form.add_error(None, refusal_text(invalid))
            return self.form_invalid(form)
        text = f"Created this batch with {counted(created.total_contacts, 'contact')} of batch {self.object.pk}."
        self.model_admin.message_user(self.request, text, messages.SUCCESS)
        self.model_admin.log_recent_action(self.request, created, text)
        return HttpResponseRedirect(reverse("admin:calls_callbatch_change", args=[created.pk]))
