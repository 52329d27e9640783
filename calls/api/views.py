"""
Batch endpoints.

Each validates its input, finds the batch among those that the caller may see, calls the model method and serializes
the result.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from calls.api import agency_schema, dialler_schema, schema
from calls.api.agency_serializers import (
    CancelAllRequestSerializer,
    HeldAgencySerializer,
    HoldRequestSerializer,
    ReleasedAgencySerializer,
    cancel_all_answer,
    cancel_all_preview,
)
from calls.api.base import EdgeFunctionViewSet
from calls.api.concurrency import limited_per_agency, turn_to_parse, turn_to_read
from calls.api.errors import NotFound
from calls.api.pagination import BatchPagination, ClampedPagination, ContactPagination
from calls.api.parsers import LargeRawParser, OptionalJSONParser, parse_json
from calls.api.permissions import HasCronSecret
from calls.api.serializers import (
    BatchIdSerializer,
    BatchPageSerializer,
    BatchWithContactsSerializer,
    CancelledBatchSerializer,
    CancelPreviewSerializer,
    CancelRequestSerializer,
    CreatedBatchSerializer,
    PassSerializer,
    PausedBatchSerializer,
    PauseRequestSerializer,
    ResumedBatchSerializer,
    validate_uuid,
)
from calls.audit import Source
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.dialler.passes import run_pass
from calls.dialler.waiting import with_dialling_state
from calls.exceptions import (
    AgentMappingNotFound,
    BatchCreateFailed,
    BatchNotFound,
    BatchReadFailed,
    BatchUpdateFailed,
    CampaignNotFound,
)
from calls.inputs import NewBatch, NewReplacement
from calls.models import Agency, AgencyUser, AgentMapping, CallBatch, Campaign, CampaignContact, IdempotencyKey
from calls.models.querysets import CallBatchQuerySet
from calls.roles import WRITER_ROLES


class CallBatchViewSet(EdgeFunctionViewSet):
    """The batches that the caller may see. Any other batch gets the same answer as one that does not exist."""

    paginator: ClampedPagination

    @property
    def caller(self) -> AgencyUser:
        return cast(AgencyUser, self.request.user)

    @property
    def agency_id(self) -> UUID:
        return cast(UUID, self.caller.agency_id)

    def get_queryset(self) -> CallBatchQuerySet:
        return CallBatch.objects.visible_to(self.caller)

    def find_batch(self) -> CallBatch:
        """
        Return the batch that the body's ``batch_id`` names.

        :raises CallsError: FieldRequired, FieldInvalid, BatchNotFound or BatchUpdateFailed.
        """
        return self.get_queryset().find(validate_batch_id(self.request.data))

    @schema.create
    @action(
        detail=False,
        methods=["post"],
        url_path="calls-batch-create",
        required_roles=WRITER_ROLES,
        parser_classes=[LargeRawParser],
    )
    @limited_per_agency
    def create_batch(self, request: Request) -> Response:
        # The body is read before the turn, so that nothing waits for a slow client.
        body = cast(bytes, request.data or b"")
        with turn_to_parse(self.agency_id, body):
            return self._create_or_repeat(parse_json(body) if body else {}, request.headers.get("Idempotency-Key"))

    def _create_or_repeat(self, data: Any, key: str | None) -> Response:
        new = NewReplacement.parse(data) if NewReplacement.is_requested_by(data) else NewBatch.parse(data)
        if key is None:
            return Response(self._create(new), status=HTTPStatus.CREATED)
        with IdempotencyKey.reserve(self.agency_id, key, new) as reserved:
            answer = reserved.stored_answer
            if answer is None:
                answer = self._create(new)
                reserved.store_answer(answer)
        return Response(answer, status=HTTPStatus.CREATED)

    def _create(self, new: NewBatch | NewReplacement) -> dict[str, Any]:
        actor = self.caller.as_actor()
        if isinstance(new, NewReplacement):
            cancelled = self.get_queryset().find(new.replaces, failure=BatchCreateFailed)
            result = cancelled.replace(new, actor=actor, source=Source.API)
        else:
            result = CallBatch.create(new, agency_id=self.agency_id, actor=actor, source=Source.API)
        return CreatedBatchSerializer(result).data

    @schema.list_batches
    @action(detail=False, methods=["get"], url_path="calls-batch-list", pagination_class=BatchPagination)
    @limited_per_agency
    def list_batches(self, request: Request) -> Response:
        batches = self.get_queryset().newest_first()
        if campaign_id := request.query_params.get("campaign_id"):
            batches = batches.filter(campaign_id=validate_uuid("campaign_id", campaign_id))
        if status := request.query_params.get("status"):
            batches = batches.with_status(status)
        with turn_to_read(self.agency_id), database_errors_as(BatchReadFailed), transaction_with_timeouts():
            chosen = CallBatch.objects.filter(pk__in=self._page_of_ids(batches)).with_names()
            page = list(with_dialling_state(chosen).newest_first())
        answer = BatchPageSerializer({"batches": page, "pagination": self.paginator.page_info})
        return Response(answer.data)

    @schema.read
    @action(detail=False, methods=["get"], url_path="calls-batch-get", pagination_class=ContactPagination)
    @limited_per_agency
    def read_batch(self, request: Request) -> Response:
        batch_id = validate_batch_id(request.query_params)
        contacts = CampaignContact.objects.filter(batch=batch_id).oldest_first()
        if status := request.query_params.get("contact_status"):
            contacts = contacts.with_status(status)
        with turn_to_read(self.agency_id), database_errors_as(BatchReadFailed), transaction_with_timeouts():
            visible = self.get_queryset()
            batches = visible.with_names().with_replacement(visible).with_replaced(visible)
            batch = with_dialling_state(batches).filter(pk=batch_id).first()
            if batch is None:
                raise BatchNotFound
            page = list(CampaignContact.objects.filter(pk__in=self._page_of_ids(contacts)).oldest_first())
        answer = BatchWithContactsSerializer(
            {"batch": batch, "contacts": page, "contact_pagination": self.paginator.page_info}
        )
        return Response(answer.data)

    def _page_of_ids(self, queryset: QuerySet[Any]) -> list[UUID]:
        """
        Return the ids of the rows on the page that the caller asks for, which an index has in their order.

        With all columns, OFFSET would read each row before the page: seconds at the end of a million contacts.
        """
        return cast(list[UUID], self.paginate_queryset(queryset.values_list("pk", flat=True)))

    @schema.pause
    @action(detail=False, methods=["post"], url_path="calls-batch-pause", required_roles=WRITER_ROLES)
    def pause(self, request: Request) -> Response:
        body = validated(PauseRequestSerializer, request)
        batch = self.get_queryset().find(body["batch_id"])
        result = batch.pause(actor=self.caller.as_actor(), source=Source.API, reason=body["reason"])
        return Response(PausedBatchSerializer(result).data)

    @schema.resume
    @action(detail=False, methods=["post"], url_path="calls-batch-resume", required_roles=WRITER_ROLES)
    def resume(self, request: Request) -> Response:
        result = self.find_batch().resume(actor=self.caller.as_actor(), source=Source.API)
        return Response(ResumedBatchSerializer(result).data)

    @schema.cancel
    @action(detail=False, methods=["post"], url_path="calls-batch-cancel", required_roles=WRITER_ROLES)
    def cancel(self, request: Request) -> Response:
        body = validated(CancelRequestSerializer, request)
        batch = self.get_queryset().find(body["batch_id"])
        if body["dry_run"]:
            return Response(CancelPreviewSerializer(batch.preview_cancel()).data)
        result = batch.cancel(actor=self.caller.as_actor(), source=Source.API, reason=body["reason"])
        return Response(CancelledBatchSerializer(result).data)

    @agency_schema.cancel_all
    @action(
        detail=False,
        methods=["post"],
        url_path="calls-batch-cancel-all",
        required_roles=WRITER_ROLES,
        parser_classes=[OptionalJSONParser],
    )
    def cancel_all(self, request: Request) -> Response:
        body = validated(CancelAllRequestSerializer, request)
        batches = self._batches_to_cancel(**body["filters"])
        if body["dry_run"]:
            return Response(cancel_all_preview(batches.preview_cancel_all()))
        outcomes = batches.cancel_all(actor=self.caller.as_actor(), source=Source.API, reason=body["reason"])
        return Response(cancel_all_answer(outcomes))

    def _batches_to_cancel(
        self, campaign_id: UUID | None = None, agent_mapping_id: UUID | None = None
    ) -> CallBatchQuerySet:
        """
        Return the agency's batches, limited to the campaign and the agent if given.

        :raises CallsError: CampaignNotFound, AgentMappingNotFound or BatchUpdateFailed.
        """
        batches = self.get_queryset()
        # Without these checks, a wrong id would match no batch, and the caller would think that all were cancelled.
        with database_errors_as(BatchUpdateFailed), transaction_with_timeouts():
            if campaign_id is not None:
                if not Campaign.objects.filter(agency=self.agency_id, pk=campaign_id).exists():
                    raise CampaignNotFound
                batches = batches.filter(campaign=campaign_id)
            if agent_mapping_id is not None:
                if not AgentMapping.objects.filter(agency=self.agency_id, pk=agent_mapping_id).exists():
                    raise AgentMappingNotFound
                batches = batches.filter(agent_mapping=agent_mapping_id)
        return batches


class AgencyViewSet(EdgeFunctionViewSet):
    """The caller's own agency."""

    required_roles = WRITER_ROLES
    parser_classes = [OptionalJSONParser]

    @agency_schema.hold
    @action(detail=False, methods=["post"], url_path="calls-agency-hold")
    def hold(self, request: Request) -> Response:
        caller, body = cast(AgencyUser, request.user), validated(HoldRequestSerializer, request)
        result = Agency(pk=caller.agency_id).hold(actor=caller.as_actor(), source=Source.API, reason=body["reason"])
        return Response(HeldAgencySerializer(result).data)

    @agency_schema.release
    @action(detail=False, methods=["post"], url_path="calls-agency-release")
    def release(self, request: Request) -> Response:
        caller = cast(AgencyUser, request.user)
        result = Agency(pk=caller.agency_id).release(actor=caller.as_actor(), source=Source.API)
        return Response(ReleasedAgencySerializer(result).data)


class ProcessViewSet(EdgeFunctionViewSet):
    """Run the dialler by HTTP, for cron services. Answers 404 when ``CRON_SECRET`` is not set."""

    authentication_classes = []
    permission_classes = [HasCronSecret]
    # Not HEAD, which a monitor may send and which should change nothing.
    http_method_names = ["get", "post", "options"]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if not settings.CRON_SECRET:
            raise NotFound
        super().initial(request, *args, **kwargs)

    @dialler_schema.process
    @action(detail=False, methods=["get", "post"], url_path="calls-batch-process")
    def process(self, request: Request) -> Response:
        return Response(PassSerializer(run_pass()).data)


def validated(serializer_class: type[Serializer[Any]], request: Request) -> dict[str, Any]:
    """
    Return the validated body.

    :raises CallsError: FieldRequired or FieldInvalid.
    """
    serializer = serializer_class(data=request.data)
    serializer.is_valid(raise_exception=True)
    return cast(dict[str, Any], serializer.validated_data)


def validate_batch_id(data: Any) -> UUID:
    """:raises CallsError: FieldRequired or FieldInvalid."""
    serializer = BatchIdSerializer(data=data)
    serializer.is_valid(raise_exception=True)
    return cast(UUID, serializer.validated_data["batch_id"])
