"""The base viewset of all endpoints under ``/functions/v1/``."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest
from rest_framework import exceptions
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from calls.api.authentication import SupabaseJWTAuthentication
from calls.api.parsers import AnyJSONParser
from calls.api.permissions import HasAgencyRole
from calls.models import CallBatch
from calls.roles import Role


class IgnoreClientContentNegotiation(BaseContentNegotiation):
    """Always use the view's first parser and renderer. ``Content-Type``, ``Accept`` and ``?format=`` are ignored."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class EdgeFunctionViewSet(GenericViewSet[CallBatch]):
    """
    An endpoint that replaces a Supabase Edge Function: JSON in, JSON out, called with ``functions.invoke``.

    A request is checked in this order: method, token, agency and role, body.
    """

    authentication_classes = [SupabaseJWTAuthentication]
    permission_classes = [IsAuthenticated, HasAgencyRole]
    parser_classes = [AnyJSONParser]
    renderer_classes = [JSONRenderer]
    content_negotiation_class = IgnoreClientContentNegotiation
    # Roles that may call the endpoint. None: every user with an agency.
    required_roles: Collection[Role] | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the method before authentication, which a plain ``OPTIONS`` does not need."""
        if request.method not in self.allowed_methods:
            raise exceptions.MethodNotAllowed(str(request.method))
        if request.method != "OPTIONS":
            super().initial(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """
        Release the parsed body, which may take 400 MB.

        The request, its parser context and the view refer to each other, so they stay in memory until the garbage
        collector's next full run, which may be hundreds of requests later.
        """
        request._data = request._full_data = None  # type: ignore[attr-defined]
        # REST framework puts it here as well when the content type is that of a form.
        request._request._post = None  # type: ignore[attr-defined]
        return super().finalize_response(request, response, *args, **kwargs)

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        return Response(status=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(self.allowed_methods)})
