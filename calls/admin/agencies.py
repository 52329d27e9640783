"""The agencies in the admin: their limit of calls, and the key of their own account at Ultravox."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from calls.admin.agency_actions import AGENCY_ACTIONS, AgencyActionView, CancelAllView
from calls.admin.base import ReadOnlyAdmin
from calls.admin.display import HISTORY_SHOWN, history_row, refusal_text
from calls.admin.holds import on_hold
from calls.admin.pages import ObjectFormView
from calls.audit import Actor, Source
from calls.dialler.accounts import key_problem
from calls.exceptions import CallsError
from calls.models import Agency
from calls.parsing import API_KEY_RULE, is_api_key

# The largest value of a PostgreSQL integer.
MAX_INTEGER = 2**31 - 1


class AgencyForm(forms.ModelForm):  # type: ignore[type-arg]
    """The one column that can be edited."""

    max_concurrent_calls = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_INTEGER,
        label="Maximum calls at once",
        help_text="In all batches of the agency together. Empty: no limit.",
    )


class UltravoxKeyForm(forms.Form):
    """A new key, which is never shown again, or the button that removes the stored key."""

    key = forms.CharField(
        required=False,
        label="Ultravox key",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "size": 60}),
        help_text="Stored encrypted, and never shown again.",
    )
    remove = forms.BooleanField(required=False, widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not cleaned.get("remove") and not is_api_key(cleaned.get("key")):
            self.add_error("key", f"A key {API_KEY_RULE}.")
        return cleaned


@method_decorator(sensitive_post_parameters("key"), name="dispatch")
class UltravoxKeyView(ObjectFormView[Agency]):
    """Set or remove the key of one agency's account. Only a POST changes anything, and no answer contains a key."""

    form_class = UltravoxKeyForm
    template_name = "admin/calls/agency/ultravox_key.html"

    @classmethod
    def is_permitted(cls, request: HttpRequest, model_admin: ReadOnlyAdmin) -> bool:
        """Return whether the user may look at agencies and may set their keys."""
        return model_admin.has_view_permission(request) and request.user.has_perm("calls.set_ultravox_key")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(title=f"Set Ultravox key: {self.object}", **kwargs)

    @method_decorator(sensitive_variables("form"))
    def form_valid(self, form: UltravoxKeyForm) -> HttpResponse:
        actor = Actor.staff(cast(User, self.request.user))
        try:
            if form.cleaned_data["remove"]:
                self.object.remove_ultravox_key(actor=actor, source=Source.ADMIN)
                done = "Removed the Ultravox key"
            else:
                self.object.set_ultravox_key(form.cleaned_data["key"], actor=actor, source=Source.ADMIN)
                done = "Set the Ultravox key"
        except CallsError as refusal:
            self.model_admin.message_user(self.request, refusal_text(refusal), messages.ERROR)
        else:
            self.model_admin.message_user(self.request, f"{done}. Workers notice it within a minute.", messages.SUCCESS)
            self.model_admin.log_recent_action(self.request, self.object, done)
        return HttpResponseRedirect(self.page_url)

    @property
    def page_url(self) -> str:
        return self.model_admin.with_preserved_filters(self.request, super().page_url)


@admin.register(Agency)
class AgencyAdmin(ReadOnlyAdmin):
    """
    An admin in which ``max_concurrent_calls`` can be edited, and nothing else.

    Another service may own the rows, so a save writes only this column and ``updated_at``.
    """

    form = AgencyForm
    list_display = ["name", "slug", "held_at", "max_concurrent_calls", "has_own_key"]
    sortable_by = ["name", "slug"]
    ordering = ["name", "slug"]
    search_fields = ["name", "slug"]
    actions = ["cancel_all_batches"]
    fields = ["name", "slug", "max_concurrent_calls", "has_own_key", "account", "dial_after"]
    readonly_fields = ["name", "slug", "has_own_key", "account", "dial_after"]

    def get_urls(self) -> list[URLPattern]:
        def action(name: str, view: type[AgencyActionView]) -> URLPattern:
            wrapped = self.admin_site.admin_view(view.as_view(model_admin=self))
            return path(f"<uuid:pk>/{name.replace('_', '-')}/", wrapped, name=f"calls_agency_{name}")

        view = self.admin_site.admin_view(UltravoxKeyView.as_view(model_admin=self))
        return [
            path("<uuid:pk>/ultravox-key/", view, name="calls_agency_ultravox_key"),
            *(action(*each) for each in AGENCY_ACTIONS.items()),
            *super().get_urls(),
        ]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Agency]:
        return super().get_queryset(request).defer("settings", "webhook_secret", "webhook_signing_secret")

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return request.user.has_perm("calls.change_agency")

    def has_cancel_all_permission(self, request: HttpRequest) -> bool:
        return CancelAllView.is_permitted(request, self)

    @admin.action(description="Cancel all batches of this agency", permissions=["cancel_all"])
    def cancel_all_batches(self, request: HttpRequest, queryset: models.QuerySet[Agency]) -> HttpResponse | None:
        """Redirect to the confirmation page. Nothing is changed yet."""
        selected = list(queryset.values_list("pk", flat=True)[:2])
        if len(selected) == 1:
            return HttpResponseRedirect(reverse("admin:calls_agency_cancel_all", args=selected))
        self.message_user(request, "Select one agency at a time. Nothing was changed.", messages.ERROR)
        return None

    @admin.display(description="Own Ultravox key", boolean=True)
    def has_own_key(self, agency: Agency) -> bool:
        return bool(agency.ultravox_api_key_encrypted)

    @admin.display(description="Account at Ultravox")
    def account(self, agency: Agency) -> str:
        return f"{key_problem(agency.pk, read_now=True) or 'No problem found. The key has not been tried at Ultravox'}."

    def save_model(self, request: HttpRequest, obj: Agency, form: Any, change: bool) -> None:
        obj.save(update_fields=["max_concurrent_calls", "updated_at"])

    def render_change_form(  # type: ignore[override]
        self, request: HttpRequest, context: dict[str, Any], *, obj: Agency, **kwargs: Any
    ) -> HttpResponse:
        held = on_hold([obj])
        offered = ["release" if held else "hold", "cancel_all"]
        context |= {
            "held_agencies": held,
            "buttons": [
                {"view": AGENCY_ACTIONS[name], "url": reverse(f"admin:calls_agency_{name}", args=[obj.pk])}
                for name in offered
                if AGENCY_ACTIONS[name].is_permitted(request, self)
            ],
            "history": [history_row(event) for event in obj.events.order_by("-pk")[:HISTORY_SHOWN]],
            "history_shown": HISTORY_SHOWN,
        }
        if UltravoxKeyView.is_permitted(request, self):
            url = reverse("admin:calls_agency_ultravox_key", args=[obj.pk])
            context["key_url"] = self.with_preserved_filters(request, url)
        return super().render_change_form(request, context, obj=obj, **kwargs)
