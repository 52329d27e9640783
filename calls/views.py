"""The functions. Each reads its input, finds the batch the caller may touch, calls its method, says the result."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Any, cast
from uuid import UUID

from django.http import HttpRequest
from rest_framework import exceptions
from rest_framework.decorators import action
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from calls import schema
from calls.actors import Actor, Door
from calls.authentication import SupabaseJWTAuthentication
from calls.models import AgencyUser, CallBatch
from calls.models.agency import WRITERS, Role
from calls.parsers import AnyJSONParser
from calls.permissions import HasAgencyRole
from calls.serializers import BatchIdSerializer, CancelledBatchSerializer


class AlwaysJSON(BaseContentNegotiation):
    """``Accept`` and ``?format=`` are ignored: a function answers JSON."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class FunctionsViewSet(GenericViewSet[CallBatch]):
    """What all functions share: JSON in and out, and the order in which a request is checked."""

    authentication_classes = [SupabaseJWTAuthentication]
    permission_classes = [IsAuthenticated, HasAgencyRole]
    parser_classes = [AnyJSONParser]
    renderer_classes = [JSONRenderer]
    content_negotiation_class = AlwaysJSON
    required_roles: Collection[Role] | None = None
    """Who may call it besides having an agency; None is anybody with one."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a wrong method before asking who is there; a plain ``OPTIONS`` needs no token."""
        if request.method not in self.allowed_methods:
            raise exceptions.MethodNotAllowed(str(request.method))
        if request.method != "OPTIONS":
            super().initial(request, *args, **kwargs)

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        return Response(status=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(self.allowed_methods)})


class CallBatchViewSet(FunctionsViewSet):
    """The batches of the caller's agency. Another agency's batch is not found."""

    queryset = CallBatch.objects.none()

    @property
    def caller(self) -> AgencyUser:
        return cast(AgencyUser, self.request.user)

    def get_batch(self) -> CallBatch:
        """
        The batch that the body names, of the caller's agency.

        :raises CallsError: BatchIdRequired, BatchIdInvalid, BatchNotFound or BatchUpdateFailed.
        """
        serializer = BatchIdSerializer(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return CallBatch.objects.for_agency(cast(UUID, self.caller.agency_id)).find(
            serializer.validated_data["batch_id"]
        )

    @schema.cancel
    @action(detail=False, methods=["post"], url_path="calls-batch-cancel", required_roles=WRITERS)
    def cancel(self, request: Request) -> Response:
        result = self.get_batch().cancel(actor=Actor.agency_user(self.caller), via=Door.API)
        return Response(CancelledBatchSerializer(result).data)
