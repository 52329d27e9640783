"""The functions. Each reads its input, finds the batch the caller may touch, calls its method, says the result."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from rest_framework import exceptions
from rest_framework.decorators import action
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from calls.api import schema
from calls.api.authentication import SupabaseJWTAuthentication
from calls.api.errors import NotFound
from calls.api.pagination import BatchPagination, ClampedPagination, ContactPagination
from calls.api.parsers import AnyJSONParser, LongJSONParser
from calls.api.permissions import HasAgencyRole, HasCronSecret
from calls.api.serializers import (
    BatchIdSerializer,
    BatchPageSerializer,
    BatchWithContactsSerializer,
    CancelledBatchSerializer,
    CreatedBatchSerializer,
    PassSerializer,
    PausedBatchSerializer,
    ResumedBatchSerializer,
    uuid_of,
)
from calls.audit import Source
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.dialler.passes import run_pass
from calls.exceptions import BatchNotFound, BatchReadFailed
from calls.inputs import NewBatch
from calls.models import AgencyUser, CallBatch, CampaignContact, IdempotencyKey
from calls.models.querysets import CallBatchQuerySet
from calls.roles import WRITER_ROLES, Role


class AlwaysFirst(BaseContentNegotiation):
    """``Accept`` and ``?format=`` are ignored: a view answers in the one way it has, as a function does in JSON."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class EdgeFunctionViewSet(GenericViewSet[CallBatch]):
    """What all functions share: JSON in and out, and the order in which a request is checked."""

    authentication_classes = [SupabaseJWTAuthentication]
    permission_classes = [IsAuthenticated, HasAgencyRole]
    parser_classes = [AnyJSONParser]
    renderer_classes = [JSONRenderer]
    content_negotiation_class = AlwaysFirst
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


class CallBatchViewSet(EdgeFunctionViewSet):
    """The batches of the caller's agency. Another agency's batch is not found."""

    paginator: ClampedPagination

    @property
    def caller(self) -> AgencyUser:
        return cast(AgencyUser, self.request.user)

    @property
    def agency_id(self) -> UUID:
        return cast(UUID, self.caller.agency_id)

    def get_queryset(self) -> CallBatchQuerySet:
        return CallBatch.objects.for_agency(self.agency_id)

    def find_batch(self) -> CallBatch:
        """
        The batch that the body names, of the caller's agency.

        :raises CallsError: FieldRequired, FieldInvalid, BatchNotFound or BatchUpdateFailed.
        """
        return self.get_queryset().find(batch_id_in(self.request.data))

    @schema.create
    @action(
        detail=False,
        methods=["post"],
        url_path="calls-batch-create",
        required_roles=WRITER_ROLES,
        parser_classes=[LongJSONParser],
    )
    def create_batch(self, request: Request) -> Response:
        new = NewBatch.parse(request.data)

        def create() -> dict[str, Any]:
            return CreatedBatchSerializer(
                CallBatch.create(new, agency_id=self.agency_id, actor=self.caller.as_actor(), source=Source.API)
            ).data

        key = request.headers.get("Idempotency-Key")
        answer = IdempotencyKey.once(self.agency_id, key, new, create)
        return Response(answer, status=HTTPStatus.CREATED)

    @schema.list_batches
    @action(detail=False, methods=["get"], url_path="calls-batch-list", pagination_class=BatchPagination)
    def list_batches(self, request: Request) -> Response:
        batches = self.get_queryset().with_names().newest_first()
        if campaign_id := request.query_params.get("campaign_id"):
            batches = batches.filter(campaign_id=uuid_of("campaign_id", campaign_id))
        if status := request.query_params.get("status"):
            batches = batches.with_status(status)
        with database_errors_as(BatchReadFailed), transaction_with_timeouts():
            page = self.paginate_queryset(batches)
        answer = BatchPageSerializer({"batches": page, "pagination": self.paginator.page_info})
        return Response(answer.data)

    @schema.read
    @action(detail=False, methods=["get"], url_path="calls-batch-get", pagination_class=ContactPagination)
    def read_batch(self, request: Request) -> Response:
        batch_id = batch_id_in(request.query_params)
        contacts = CampaignContact.objects.filter(batch=batch_id).oldest_first()
        if status := request.query_params.get("contact_status"):
            contacts = contacts.with_status(status)
        with database_errors_as(BatchReadFailed), transaction_with_timeouts():
            batch = self.get_queryset().with_names().filter(pk=batch_id).first()
            if batch is None:
                raise BatchNotFound
            page = self.paginate_queryset(contacts)  # type: ignore[arg-type]
        answer = BatchWithContactsSerializer(
            {"batch": batch, "contacts": page, "contact_pagination": self.paginator.page_info}
        )
        return Response(answer.data)

    @schema.pause
    @action(detail=False, methods=["post"], url_path="calls-batch-pause", required_roles=WRITER_ROLES)
    def pause(self, request: Request) -> Response:
        result = self.find_batch().pause(actor=self.caller.as_actor(), source=Source.API)
        return Response(PausedBatchSerializer(result).data)

    @schema.resume
    @action(detail=False, methods=["post"], url_path="calls-batch-resume", required_roles=WRITER_ROLES)
    def resume(self, request: Request) -> Response:
        result = self.find_batch().resume(actor=self.caller.as_actor(), source=Source.API)
        return Response(ResumedBatchSerializer(result).data)

    @schema.cancel
    @action(detail=False, methods=["post"], url_path="calls-batch-cancel", required_roles=WRITER_ROLES)
    def cancel(self, request: Request) -> Response:
        result = self.find_batch().cancel(actor=self.caller.as_actor(), source=Source.API)
        return Response(CancelledBatchSerializer(result).data)


class ProcessViewSet(EdgeFunctionViewSet):
    """The dialler, for cron services that call an address. Not there without a ``CRON_SECRET``."""

    authentication_classes = []
    permission_classes = [HasCronSecret]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if not settings.CRON_SECRET:
            raise NotFound
        super().initial(request, *args, **kwargs)

    @schema.process
    @action(detail=False, methods=["post"], url_path="calls-batch-process")
    def process(self, request: Request) -> Response:
        return Response(PassSerializer(run_pass()).data)


def batch_id_in(data: Any) -> UUID:
    """:raises CallsError: FieldRequired or FieldInvalid."""
    serializer = BatchIdSerializer(data=data)
    serializer.is_valid(raise_exception=True)
    return cast(UUID, serializer.validated_data["batch_id"])
