"""Decorators that describe the endpoints for a whole agency in ``/openapi.json``."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, PolymorphicProxySerializer, extend_schema

from calls import exceptions
from calls.api import errors as api_errors
from calls.api.agency_serializers import (
    CancelAllPreviewSerializer,
    CancelAllRequestSerializer,
    CancelAllSerializer,
    HeldAgencySerializer,
    HoldRequestSerializer,
    ReleasedAgencySerializer,
    cancel_all_answer,
    cancel_all_preview,
)
from calls.api.schema import (
    DRY_RUN_INVALID,
    EXAMPLE_AGENT_ID,
    EXAMPLE_BATCH_ID,
    EXAMPLE_CAMPAIGN_ID,
    EXAMPLE_TIME,
    FUNCTIONS_TAG,
    JSON,
    REASON_INVALID,
    WRITE_ERRORS,
    WRITERS_ONLY,
    error_responses,
)
from calls.exceptions import CallsError
from calls.models import CallBatch, CancelResult, HoldResult
from calls.statuses import BatchStatus

_BATCH = CallBatch(pk=EXAMPLE_BATCH_ID)
_BODY_ERRORS = (
    api_errors.BodyTooLarge,
    exceptions.FieldInvalid("body", "must be a JSON object"),
)


def _example(status: BatchStatus) -> CancelResult:
    return CancelResult(EXAMPLE_BATCH_ID, EXAMPLE_BATCH_ID, status, contacts_skipped=342, in_progress=5)


def _requests(**bodies: dict[str, Any]) -> list[OpenApiExample]:
    return [OpenApiExample(title.replace("_", " "), value=value, request_only=True) for title, value in bodies.items()]


cancel_all = extend_schema(
    operation_id="calls-batch-cancel-all",
    summary="Cancel all batches",
    description=(
        "Cancels every batch of the caller's agency that can be cancelled, optionally only those of one campaign or "
        "one agent. The batch with the latest activity comes first. Each batch is cancelled as by "
        "`calls-batch-cancel`, in a transaction of its own. If the request is interrupted, or a batch fails, repeat it "
        "to cancel the remaining batches. A batch that is created meanwhile is not cancelled; `calls-agency-hold` "
        "stops its calls too.\n\n"
        "With `dry_run`, nothing is changed: the response shows what a cancel of each batch would do." + WRITERS_ONLY
    ),
    tags=[FUNCTIONS_TAG],
    request={JSON: CancelAllRequestSerializer},
    examples=_requests(
        all_batches={"reason": "Wrong script"},
        of_a_campaign_with_an_agent={
            "campaign_id": str(EXAMPLE_CAMPAIGN_ID),
            "agent_mapping_id": str(EXAMPLE_AGENT_ID),
        },
        a_preview={"dry_run": True},
    ),
    responses={
        200: OpenApiResponse(
            PolymorphicProxySerializer("CancelAllAnswer", [CancelAllSerializer, CancelAllPreviewSerializer], None),
            description="Each batch was cancelled or has an error in `results`. With `dry_run`, nothing was changed.",
            examples=[
                OpenApiExample("all cancelled", value=cancel_all_answer([(_BATCH, _example(BatchStatus.CANCELLED))])),
                OpenApiExample("a batch failed", value=cancel_all_answer([(_BATCH, exceptions.BatchUpdateFailed())])),
                OpenApiExample("a preview", value=cancel_all_preview([(_BATCH, _example(BatchStatus.PROCESSING))])),
            ],
        ),
        **error_responses(
            *WRITE_ERRORS,
            *_BODY_ERRORS,
            REASON_INVALID,
            DRY_RUN_INVALID,
            exceptions.FieldInvalid("campaign_id", "must be a valid UUID"),
            exceptions.CampaignNotFound,
            exceptions.AgentMappingNotFound,
            exceptions.BatchUpdateFailed,
            api_errors.InternalError,
        ),
    },
)


def _held(held_at: datetime | None) -> HoldResult:
    return HoldResult(UUID(int=0), held_at, in_progress=5)


_AGENCY_ERRORS: tuple[CallsError | type[CallsError], ...] = (
    *WRITE_ERRORS,
    exceptions.AgencyNotFound,
    exceptions.AgencyUpdateFailed,
    api_errors.InternalError,
)

hold = extend_schema(
    operation_id="calls-agency-hold",
    summary="Hold the agency",
    description=(
        "From the answer on, no call starts in any batch of the caller's agency, now or later, until "
        "`calls-agency-release`. Calls in progress continue until they end. Batches keep their status, and can be "
        "created, cancelled, paused and resumed. The request takes the same time for any number of batches. Repeating "
        "the request is safe and does not change `held_at`.\n\n"
        "503 `hold_unconfirmed` means that the hold is stored, but that a call that was about to start may still "
        "start. Repeat the request after `Retry-After`." + WRITERS_ONLY
    ),
    tags=[FUNCTIONS_TAG],
    request={JSON: HoldRequestSerializer},
    examples=_requests(with_a_reason={"reason": "A complaint"}),
    responses={
        200: OpenApiResponse(
            HeldAgencySerializer,
            description="The hold is in force.",
            examples=[OpenApiExample("held", value=HeldAgencySerializer(_held(EXAMPLE_TIME)).data)],
        ),
        **error_responses(*_AGENCY_ERRORS, *_BODY_ERRORS, REASON_INVALID, exceptions.HoldUnconfirmed),
    },
)

release = extend_schema(
    operation_id="calls-agency-release",
    summary="Release the agency",
    description=(
        "Ends the hold of the caller's agency. Batches that are paused, cancelled or scheduled for later still start "
        "no calls. Repeating the request is safe." + WRITERS_ONLY
    ),
    tags=[FUNCTIONS_TAG],
    request=None,
    responses={
        200: OpenApiResponse(
            ReleasedAgencySerializer,
            description="The agency is not on hold.",
            examples=[OpenApiExample("released", value=ReleasedAgencySerializer(_held(None)).data)],
        ),
        **error_responses(*_AGENCY_ERRORS),
    },
)
