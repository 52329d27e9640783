"""What ``/openapi.json`` says beyond what the code itself shows: every answer, with an example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    inline_serializer,
)
from rest_framework import serializers

from calls import exceptions
from calls.api import errors as api_errors
from calls.api.parsers import LongJSONParser, RawParser
from calls.api.serializers import (
    BatchIdSerializer,
    BatchPageSerializer,
    BatchWithContactsSerializer,
    CancelledBatchSerializer,
    CreatedBatchSerializer,
    PassSerializer,
    PausedBatchSerializer,
    ResumedBatchSerializer,
    StoredSerializer,
)
from calls.exceptions import CallsError
from calls.inputs import NewBatch
from calls.models import CancelResult, PauseResult
from calls.roles import WRITER_ROLES
from calls.statuses import BatchStatus, ContactStatus

FUNCTIONS_TAG = "functions"
JSON = "application/json"

F = TypeVar("F", bound=Callable[..., Any])


class SupabaseJWTScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "calls.api.authentication.SupabaseJWTAuthentication"
    name = "SupabaseAccessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


# The batch of the examples, its campaign and its agent. The demo has them, so that what the docs page shows can be
# tried there.
EXAMPLE_BATCH_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10")
EXAMPLE_CAMPAIGN_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e11")
EXAMPLE_AGENT_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e12")
_AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)

_ERROR = inline_serializer(
    "Error",
    {
        "error": serializers.CharField(),
        "code": serializers.CharField(),
        "batch_id": serializers.UUIDField(required=False, help_text="Only where the batch's status is in the way."),
        "status": serializers.ChoiceField(choices=BatchStatus.choices, required=False),
        "completed_at": serializers.DateTimeField(required=False, allow_null=True),
        "invalid_contacts": inline_serializer(
            "InvalidContact",
            {"index": serializers.IntegerField(), "reason": serializers.CharField()},
            many=True,
            required=False,
            help_text="Only where contacts are invalid: the first 20 of them, by their place in the list.",
        ),
    },
)


def _refused(refusal: type[exceptions.BatchRefused], status: BatchStatus) -> CallsError:
    ended = status in (BatchStatus.COMPLETED, BatchStatus.CANCELLED)
    return refusal(EXAMPLE_BATCH_ID, status, _AT if ended else None)


def _errors(*errors: CallsError | type[CallsError]) -> dict[int, OpenApiResponse]:
    """One response for each status, with one example for each refusal that it stands for."""
    by_status = defaultdict(list)
    for error in errors:
        by_status[api_errors.status_of(error)].append(error() if isinstance(error, type) else error)
    return {
        status: OpenApiResponse(
            _ERROR,
            description=" / ".join(error.text for error in group),
            examples=[OpenApiExample(error.code, value=api_errors.error_body(error)) for error in group],
        )
        for status, group in by_status.items()
    }


_FOR_READERS = (api_errors.MethodNotAllowed, api_errors.Unauthorized, exceptions.NoAgency)
_FOR_WRITERS = (*_FOR_READERS, exceptions.InsufficientRole)
_BATCH_NAMED = (
    exceptions.FieldRequired("batch_id"),
    exceptions.FieldInvalid("batch_id", "must be a valid UUID"),
    exceptions.BatchNotFound,
)
_OWNERS = f"\n\nNeeds the role {' or '.join(f'`{role}`' for role in WRITER_ROLES)}."
_EVERYBODY = "\n\nFor everybody who belongs to an agency."


def _verb(
    name: str, summary: str, description: str, answer: Any, example: Any, *refusals: CallsError
) -> Callable[[F], F]:
    """A function that takes a ``batch_id`` and does something to that batch."""
    return extend_schema(
        operation_id=f"calls-batch-{name}",
        summary=summary,
        description=description + _OWNERS,
        tags=[FUNCTIONS_TAG],
        request={JSON: BatchIdSerializer},
        examples=[OpenApiExample("a batch", value={"batch_id": str(EXAMPLE_BATCH_ID)}, request_only=True)],
        responses={
            200: OpenApiResponse(
                answer,
                description="It is done, and holds.",
                examples=[OpenApiExample(example.status, value=answer(example).data)],
            ),
            **_errors(
                *_FOR_WRITERS,
                api_errors.BodyTooLarge,
                *_BATCH_NAMED,
                *refusals,
                exceptions.BatchUpdateFailed,
                api_errors.InternalError,
            ),
        },
    )


def _paused(status: BatchStatus, paused_at: datetime | None) -> PauseResult:
    return PauseResult(EXAMPLE_BATCH_ID, EXAMPLE_BATCH_ID, status, paused_at, queued=342, in_progress=5)


cancel = _verb(
    "cancel",
    "Cancel a batch",
    "Cancels a batch of the caller's agency and marks all of its contacts not yet called as skipped. Calls in "
    "progress go on until they end; no new call is initiated. Irreversible.",
    CancelledBatchSerializer,
    CancelResult(EXAMPLE_BATCH_ID, EXAMPLE_BATCH_ID, BatchStatus.CANCELLED, contacts_skipped=342, in_progress=5),
    _refused(exceptions.BatchAlreadyCompleted, BatchStatus.COMPLETED),
    _refused(exceptions.BatchAlreadyCancelled, BatchStatus.CANCELLED),
)

pause = _verb(
    "pause",
    "Pause a batch",
    "Stops a batch that is processing or scheduled until it is resumed. Calls in progress go on until they end.",
    PausedBatchSerializer,
    _paused(BatchStatus.PAUSED, _AT),
    _refused(exceptions.BatchNotPausable, BatchStatus.PAUSED),
)

resume = _verb(
    "resume",
    "Resume a paused batch",
    "Lets a paused batch go on: at its scheduled time while that is ahead, else now.",
    ResumedBatchSerializer,
    _paused(BatchStatus.PROCESSING, None),
    _refused(exceptions.BatchNotPaused, BatchStatus.PROCESSING),
)

_CREATED = {
    "batch_id": str(EXAMPLE_BATCH_ID),
    "status": BatchStatus.PENDING,
    "total_contacts": 2,
    "duplicates_removed": 0,
    "agent_mapping_id": str(EXAMPLE_AGENT_ID),
    "agent_name": "Robin",
    "campaign_id": str(EXAMPLE_CAMPAIGN_ID),
    "from_number": "+12125550199",
    "calls_per_minute": 30,
    "max_concurrent": 10,
    "scheduled_for": None,
    "mode": "immediate",
    "created_at": "2026-01-31T09:30:00Z",
}

create = extend_schema(
    operation_id="calls-batch-create",
    summary="Create a batch",
    description=(
        "Creates a batch with its contacts, all or nothing. Of several contacts with one number the first counts. "
        "What is null counts as not given; unknown keys are ignored.\n\n"
        "With an `Idempotency-Key` a request can be sent again when its answer was lost: the same key with the same "
        "body is answered as it was the first time, and nobody is called twice. Keys are kept for good." + _OWNERS
    ),
    tags=[FUNCTIONS_TAG],
    parameters=[
        OpenApiParameter(
            "Idempotency-Key", str, "header", description="1 to 255 visible ASCII characters, such as a UUID."
        )
    ],
    request={JSON: NewBatch},
    examples=[
        OpenApiExample(
            "two contacts",
            value={
                "agent_mapping_id": str(EXAMPLE_AGENT_ID),
                "campaign_id": str(EXAMPLE_CAMPAIGN_ID),
                "from_number": "+12125550199",
                "contacts": [
                    {"phone_number": "+12125550100", "first_name": "Amara", "custom_data": {"policy": "A-17"}},
                    {"phone_number": "+12125550101"},
                ],
            },
            request_only=True,
        )
    ],
    responses={
        201: OpenApiResponse(
            CreatedBatchSerializer,
            description="The batch is stored with all of its contacts.",
            examples=[OpenApiExample("created", value=_CREATED)],
        ),
        **_errors(
            *_FOR_WRITERS,
            api_errors.BodyTooLarge(LongJSONParser.too_large),
            exceptions.FieldInvalid("body", "must be a JSON object"),
            exceptions.FieldRequired("campaign_id"),
            exceptions.FieldInvalid("from_number", "must be an active phone number of the agency"),
            exceptions.InvalidContacts(1, 2, [(0, "phone_number is required")]),
            exceptions.FieldInvalid("idempotency_key", "must be 1 to 255 visible ASCII characters"),
            exceptions.AgentMappingNotFound,
            exceptions.CampaignNotFound,
            exceptions.IdempotencyKeyReused,
            exceptions.BatchCreateFailed,
            api_errors.InternalError,
        ),
    },
)


def _page(prefix: str, default: int, largest: int) -> list[OpenApiParameter]:
    return [
        OpenApiParameter(f"{prefix}limit", int, description=f"1 to {largest}, by default {default}."),
        OpenApiParameter(f"{prefix}offset", int, description="How many to leave out before them."),
    ]


list_batches = extend_schema(
    operation_id="calls-batch-list",
    summary="List batches",
    description="The batches of the caller's agency, newest first." + _EVERYBODY,
    tags=[FUNCTIONS_TAG],
    filters=False,
    parameters=[
        OpenApiParameter("status", str, enum=BatchStatus.values, description="Any other finds nothing."),
        OpenApiParameter("campaign_id", UUID),
        *_page("", 25, 100),
    ],
    responses={
        200: OpenApiResponse(BatchPageSerializer, description="A page of them."),
        **_errors(
            *_FOR_READERS,
            exceptions.FieldInvalid("campaign_id", "must be a valid UUID"),
            exceptions.FieldInvalid("limit", "must be an integer"),
            exceptions.BatchReadFailed,
            api_errors.InternalError,
        ),
    },
)

read = extend_schema(
    operation_id="calls-batch-get",
    summary="Get a batch",
    description="A batch of the caller's agency and a page of its contacts, oldest first." + _EVERYBODY,
    tags=[FUNCTIONS_TAG],
    parameters=[
        OpenApiParameter("batch_id", UUID, required=True),
        OpenApiParameter("contact_status", str, enum=ContactStatus.values, description="Any other finds nothing."),
        *_page("contact_", 50, 200),
    ],
    responses={
        200: OpenApiResponse(BatchWithContactsSerializer, description="The batch and its contacts."),
        **_errors(*_FOR_READERS, *_BATCH_NAMED, exceptions.BatchReadFailed, api_errors.InternalError),
    },
)

process = extend_schema(
    operation_id="calls-batch-process",
    summary="Dial what is due",
    description=(
        "One pass of the dialler, for cron services; a worker does the same every minute. Any number of them at once "
        "are safe. Needs `Authorization: Bearer` and the server's `CRON_SECRET`; without one it is not there."
    ),
    tags=[FUNCTIONS_TAG],
    request=None,
    responses={
        200: OpenApiResponse(
            PassSerializer,
            description="What the pass did.",
            examples=[OpenApiExample("done", value={"batches_processed": 2, "calls_initiated": 40, "calls_failed": 1})],
        ),
        **_errors(
            api_errors.MethodNotAllowed,
            api_errors.Unauthorized,
            api_errors.NotFound,
            exceptions.BatchReadFailed,
            api_errors.InternalError,
        ),
    },
)

ingest = extend_schema(
    operation_id="webhook-ingest",
    summary="Hear of a call",
    description=(
        "Where the provider delivers its events, `call.started`, `call.joined`, `call.ended` and `call.billed`, in any "
        "order and as often as it likes; each has its effect once. Anything else is stored and has none. The address "
        "is the secret. An agency with a signing secret has each delivery's signature checked as well."
    ),
    tags=[FUNCTIONS_TAG],
    parameters=[
        OpenApiParameter("agency_id", UUID, "path"),
        OpenApiParameter("secret", str, "path", description="The agency's `webhook_secret`."),
        OpenApiParameter("X-Ultravox-Webhook-Timestamp", str, "header", description="ISO 8601, at most 60 s ago."),
        OpenApiParameter(
            "X-Ultravox-Webhook-Signature",
            str,
            "header",
            description="Hexadecimal HMAC-SHA256 of the raw body and the timestamp; of several with commas, one.",
        ),
    ],
    request={
        JSON: inline_serializer(
            "WebhookEvent", {"event": serializers.CharField(), "call": serializers.DictField(required=False)}
        )
    },
    examples=[
        OpenApiExample(
            "a call has ended",
            value={
                "event": "call.ended",
                "call": {
                    "callId": str(EXAMPLE_BATCH_ID),
                    "created": "2026-01-31T09:30:00Z",
                    "joined": "2026-01-31T09:30:10Z",
                    "ended": "2026-01-31T09:31:00Z",
                    "endReason": "hangup",
                },
            },
            request_only=True,
        )
    ],
    responses={
        200: OpenApiResponse(
            StoredSerializer,
            description="It is stored.",
            examples=[OpenApiExample("stored", value={"success": True})],
        ),
        **_errors(
            api_errors.MethodNotAllowed,
            api_errors.Unauthorized,
            api_errors.BodyTooLarge(RawParser.too_large),
            exceptions.FieldInvalid("body", "must be a JSON object"),
            exceptions.FieldRequired("event"),
            api_errors.NotStored,
            api_errors.InternalError,
        ),
    },
)
