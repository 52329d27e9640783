"""Base views for admin pages with a form, in addition to Django's list and change pages."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.views.generic import FormView

from calls.admin.base import ReadOnlyAdmin

M = TypeVar("M", bound=Model)


class AdminFormView(FormView):  # type: ignore[type-arg]
    """A form within the admin. Only a POST changes anything. Its template extends ``admin/calls/form_page.html``."""

    # Not PUT, which FormView treats like POST.
    http_method_names = ["get", "head", "post"]

    # Set by as_view().
    model_admin: ReadOnlyAdmin = None  # type: ignore[assignment]

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = {
            **self.model_admin.admin_site.each_context(self.request),
            "opts": self.model_admin.opts,
            "media": self.model_admin.media,
        }
        return super().get_context_data(**context | kwargs)


class ObjectFormView(AdminFormView, Generic[M]):
    """A form about one object, whose id is in the URL. ``page_url`` is the object's own page."""

    object: M

    @classmethod
    def is_permitted(cls, request: HttpRequest, model_admin: ReadOnlyAdmin) -> bool:
        """Return whether the user may see the form and send it."""
        raise NotImplementedError

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.is_permitted(request, self.model_admin):
            raise PermissionDenied
        found = self.model_admin.get_queryset(request).filter(pk=cast(UUID, kwargs["pk"])).first()
        if found is None:
            raise Http404
        self.object = found
        return super().dispatch(request, *args, **kwargs)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**{"object": self.object, "back_url": self.page_url} | kwargs)

    @property
    def page_url(self) -> str:
        opts = self.model_admin.opts
        return reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[self.object.pk])
