"""What ``/openapi.json`` says beyond what the code itself shows: every answer, with an example."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers

from calls import api_errors, exceptions
from calls.exceptions import CallsError
from calls.models import CallBatch, CancelResult
from calls.serializers import BatchIdSerializer, CancelledBatchSerializer
from calls.statuses import BatchStatus

FUNCTIONS_TAG = "functions"


class SupabaseJWTScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "calls.authentication.SupabaseJWTAuthentication"
    name = "SupabaseAccessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


# The batch of the examples. The demo has one with this id, so that what the docs page shows can be tried there.
EXAMPLE_BATCH_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10")
_FINISHED_AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)

_ERROR = inline_serializer(
    "Error",
    {
        "error": serializers.CharField(),
        "code": serializers.CharField(),
        "batch_id": serializers.UUIDField(required=False, help_text="Only where the batch has ended before."),
        "status": serializers.ChoiceField(choices=BatchStatus.choices, required=False),
        "completed_at": serializers.DateTimeField(required=False, allow_null=True),
    },
)


def _finished(refusal: type[exceptions.BatchFinished], status: BatchStatus) -> CallsError:
    return refusal(CallBatch(pk=EXAMPLE_BATCH_ID, status=status, completed_at=_FINISHED_AT))


def _errors(*errors: CallsError | type[CallsError]) -> dict[int, OpenApiResponse]:
    """One response for each status, with one example for each refusal that it stands for."""
    by_status = defaultdict(list)
    for error in errors:
        by_status[api_errors.status_of(error)].append(error)
    return {
        status: OpenApiResponse(
            _ERROR,
            description=" / ".join(error.text for error in group),
            examples=[OpenApiExample(error.code, value=api_errors.error_body(error)) for error in group],
        )
        for status, group in by_status.items()
    }


_CANCELLED = CancelResult(
    batch_id=EXAMPLE_BATCH_ID,
    agency_id=EXAMPLE_BATCH_ID,
    status=BatchStatus.CANCELLED,
    contacts_skipped=342,
    in_progress=5,
)

cancel = extend_schema(
    operation_id="calls-batch-cancel",
    summary="Cancel a batch",
    description=(
        "Cancels a batch of the caller's agency and marks all of its contacts not yet called as skipped. Calls in "
        "progress go on until they end; no new call is initiated. Irreversible.\n\n"
        "Needs the role `agency_owner` or `agency_admin`."
    ),
    tags=[FUNCTIONS_TAG],
    request=BatchIdSerializer,
    examples=[OpenApiExample("a batch", value={"batch_id": str(EXAMPLE_BATCH_ID)}, request_only=True)],
    responses={
        200: OpenApiResponse(
            CancelledBatchSerializer,
            description="The batch is cancelled. No contact of it is claimed for a call any more.",
            examples=[OpenApiExample("cancelled", value=CancelledBatchSerializer(_CANCELLED).data)],
        ),
        **_errors(
            api_errors.MethodNotAllowed,
            api_errors.Unauthorized,
            exceptions.NoAgency,
            exceptions.InsufficientRole,
            api_errors.BodyTooLarge,
            exceptions.BatchIdRequired,
            exceptions.BatchIdInvalid,
            exceptions.BatchNotFound,
            _finished(exceptions.BatchAlreadyCompleted, BatchStatus.COMPLETED),
            _finished(exceptions.BatchAlreadyCancelled, BatchStatus.CANCELLED),
            exceptions.BatchUpdateFailed,
            api_errors.InternalError,
        ),
    },
)
