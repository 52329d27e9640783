"""Decorators that describe the batch endpoints in ``/openapi.json``: texts, error answers and examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
    inline_serializer,
)
from pydantic import RootModel
from rest_framework import serializers

from calls import exceptions
from calls.api import errors as api_errors
from calls.api.parsers import LargeRawParser
from calls.api.serializers import (
    BatchIdSerializer,
    BatchPageSerializer,
    BatchWithContactsSerializer,
    CancelledBatchSerializer,
    CancelPreviewSerializer,
    CancelRequestSerializer,
    CreatedBatchSerializer,
    PausedBatchSerializer,
    PauseRequestSerializer,
    ResumedBatchSerializer,
)
from calls.exceptions import CallsError
from calls.inputs import MAX_REASON, NewBatch, NewReplacement
from calls.models import CancelResult, PauseResult
from calls.roles import WRITER_ROLES, Role, is_client_role
from calls.statuses import FINAL, BatchStatus, ContactStatus

FUNCTIONS_TAG = "functions"
JSON = "application/json"

F = TypeVar("F", bound=Callable[..., Any])


class SupabaseJWTScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "calls.api.authentication.SupabaseJWTAuthentication"
    name = "SupabaseAccessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


# Ids of the batch, campaign and agent in the examples. The demo creates them, so the examples on /docs work with the
# demo's data.
EXAMPLE_BATCH_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10")
EXAMPLE_CAMPAIGN_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e11")
EXAMPLE_AGENT_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e12")
EXAMPLE_REPLACEMENT_ID = UUID("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e13")
EXAMPLE_TIME = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)

_ERROR = inline_serializer(
    "Error",
    {
        "error": serializers.CharField(),
        "code": serializers.CharField(),
        "batch_id": serializers.UUIDField(
            required=False,
            help_text="The batch whose status does not allow this. For `batch_already_replaced`, the replacement.",
        ),
        "status": serializers.ChoiceField(choices=BatchStatus.choices, required=False),
        "completed_at": serializers.DateTimeField(required=False, allow_null=True),
        "invalid_contacts": inline_serializer(
            "InvalidContact",
            {"index": serializers.IntegerField(), "reason": serializers.CharField()},
            many=True,
            required=False,
            help_text="Present if contacts are invalid: the first 20, by their index in the list.",
        ),
    },
)


def _batch_refused(refusal: type[exceptions.BatchRefused], status: BatchStatus) -> CallsError:
    return refusal(EXAMPLE_BATCH_ID, status, EXAMPLE_TIME if status in FINAL else None)


def error_responses(*errors: CallsError | type[CallsError]) -> dict[int, OpenApiResponse]:
    """Return one response for each HTTP status, with one example for each error."""
    by_status = defaultdict(list)
    for error in errors:
        by_status[api_errors.http_status(error)].append(error() if isinstance(error, type) else error)
    return {
        status: OpenApiResponse(
            _ERROR,
            description=" / ".join(error.text for error in group),
            examples=[OpenApiExample(error.code, value=api_errors.error_body(error)) for error in group],
        )
        for status, group in by_status.items()
    }


_READ_ERRORS = (api_errors.MethodNotAllowed, api_errors.Unauthorized, exceptions.NoAgency)
WRITE_ERRORS = (*_READ_ERRORS, exceptions.InsufficientRole)
REASON_INVALID = exceptions.FieldInvalid("reason", f"must be a string of at most {MAX_REASON} characters")
DRY_RUN_INVALID = exceptions.FieldInvalid("dry_run", "must be true or false")
_BATCH_ID_ERRORS = (
    exceptions.FieldRequired("batch_id"),
    exceptions.FieldInvalid("batch_id", "must be a valid UUID"),
    exceptions.BatchNotFound,
)
_LIMITED_PER_AGENCY = (
    "\n\nA server process works on eight such requests of an agency at once. If they are slow, others get 429 with "
    "`Retry-After`."
)
WRITERS_ONLY = f"\n\nRequires the role {' or '.join(f'`{role}`' for role in WRITER_ROLES)}."
_ANY_AGENCY_USER = (
    "\n\nAvailable to every user with an agency. A user with the role "
    f"{' or '.join(f'`{role}`' for role in Role if is_client_role(role))} sees only the batches of campaigns with the "
    "user's own `client_id`, and none if the user has no `client_id`. A batch that the user may not see gets 404, "
    "and is not counted in `total`."
)


def _batch_verb(
    name: str,
    summary: str,
    description: str,
    answer: Any,
    example: Any,
    *refusals: CallsError,
    request: Any = BatchIdSerializer,
    preview: Any = None,
) -> Callable[[F], F]:
    """
    Return the decorator of an endpoint that takes a ``batch_id`` and changes that batch.

    :param preview: the serializer of the answer to a request with ``dry_run``, if the endpoint takes it.
    """
    body: dict[str, Any] = {"batch_id": str(EXAMPLE_BATCH_ID)}
    requests, answers = {"a batch": body}, {example.status: answer(example).data}
    if request is not BatchIdSerializer:
        requests["with a reason"] = body | {"reason": "Wrong list"}
    if preview is not None:
        requests["a preview"] = body | {"dry_run": True}
        answers["a preview"] = preview(replace(example, status=BatchStatus.PROCESSING)).data
        answer = PolymorphicProxySerializer(f"{name.title()}Answer", [answer, preview], None)
    return extend_schema(
        operation_id=f"calls-batch-{name}",
        summary=summary,
        description=description + WRITERS_ONLY,
        tags=[FUNCTIONS_TAG],
        request={JSON: request},
        examples=[OpenApiExample(title, value=value, request_only=True) for title, value in requests.items()],
        responses={
            200: OpenApiResponse(
                answer,
                description="The change is committed."
                + ("" if preview is None else " With `dry_run`, nothing was changed."),
                examples=[OpenApiExample(title, value=value) for title, value in answers.items()],
            ),
            **error_responses(
                *WRITE_ERRORS,
                api_errors.BodyTooLarge,
                *_BATCH_ID_ERRORS,
                *([] if request is BatchIdSerializer else [REASON_INVALID]),
                *([] if preview is None else [DRY_RUN_INVALID]),
                *refusals,
                exceptions.BatchUpdateFailed,
                api_errors.InternalError,
            ),
        },
    )


def _paused(status: BatchStatus, paused_at: datetime | None) -> PauseResult:
    return PauseResult(EXAMPLE_BATCH_ID, EXAMPLE_BATCH_ID, status, paused_at, queued=342, in_progress=5)


cancel = _batch_verb(
    "cancel",
    "Cancel a batch",
    "Cancels a batch of the caller's agency and marks its remaining contacts (`pending`, `queued` or `scheduled`) as "
    "`skipped`. Calls in progress continue until they end; no new call starts. A cancel cannot be undone.\n\n"
    "With `dry_run`, nothing is changed: the response shows what a cancel would do, or is the error that a cancel "
    "would return. A value that is not a boolean is refused.",
    CancelledBatchSerializer,
    CancelResult(EXAMPLE_BATCH_ID, EXAMPLE_BATCH_ID, BatchStatus.CANCELLED, contacts_skipped=342, in_progress=5),
    _batch_refused(exceptions.BatchAlreadyCompleted, BatchStatus.COMPLETED),
    _batch_refused(exceptions.BatchAlreadyCancelled, BatchStatus.CANCELLED),
    request=CancelRequestSerializer,
    preview=CancelPreviewSerializer,
)

pause = _batch_verb(
    "pause",
    "Pause a batch",
    "Pauses a `processing` or `scheduled` batch. Calls in progress continue until they end; no new call starts until "
    "the batch is resumed.",
    PausedBatchSerializer,
    _paused(BatchStatus.PAUSED, EXAMPLE_TIME),
    _batch_refused(exceptions.BatchNotPausable, BatchStatus.PAUSED),
    request=PauseRequestSerializer,
)

resume = _batch_verb(
    "resume",
    "Resume a paused batch",
    "Resumes a `paused` batch: at its scheduled time if that is in the future, otherwise now. If the dialler had "
    "paused it, `error_message` is cleared.",
    ResumedBatchSerializer,
    _paused(BatchStatus.PROCESSING, None),
    _batch_refused(exceptions.BatchNotPaused, BatchStatus.PROCESSING),
)


class NewBatchOrReplacement(RootModel[NewBatch | NewReplacement]):
    """A new batch with contacts, or with those of a cancelled batch."""


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
_REPLACEMENT = _CREATED | {"batch_id": str(EXAMPLE_REPLACEMENT_ID), "replaces": str(EXAMPLE_BATCH_ID)}

create = extend_schema(
    operation_id="calls-batch-create",
    summary="Create a batch",
    description=(
        "Creates a batch with its contacts, all or nothing. If several contacts have the same phone number, the first "
        "one is kept. A null value counts as absent; unknown keys are ignored.\n\n"
        "Send an `Idempotency-Key` to be able to repeat the request when its answer was lost: the same key with the "
        "same body returns the first answer and creates no second batch. Keys are kept for 30 days, unless the "
        "operator has chosen another time.\n\n"
        "With `replaces` instead of `contacts`, the new batch gets the contacts that the cancel of that batch skipped, "
        "in their order and with no attempts. Contacts that were called, or that are marked `do_not_call`, are left "
        "out. Omitted fields are copied from the cancelled batch, except `scheduled_for` and `mode`. A batch can be "
        "replaced only once." + _LIMITED_PER_AGENCY + WRITERS_ONLY
    ),
    tags=[FUNCTIONS_TAG],
    parameters=[
        OpenApiParameter(
            "Idempotency-Key", str, "header", description="1 to 255 visible ASCII characters, for example a UUID."
        )
    ],
    request={JSON: NewBatchOrReplacement},
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
        ),
        OpenApiExample("a replacement", value={"replaces": str(EXAMPLE_BATCH_ID)}, request_only=True),
    ],
    responses={
        201: OpenApiResponse(
            CreatedBatchSerializer,
            description="The batch is stored with all of its contacts.",
            examples=[
                OpenApiExample("created", value=_CREATED),
                OpenApiExample("replacement", value=_REPLACEMENT),
            ],
        ),
        **error_responses(
            *WRITE_ERRORS,
            api_errors.BodyTooLarge(LargeRawParser.too_large_text),
            exceptions.FieldInvalid("body", "must be a JSON object"),
            exceptions.FieldRequired("campaign_id"),
            exceptions.FieldInvalid("from_number", "must be an active phone number of the agency"),
            exceptions.InvalidContacts(1, 2, [(0, "phone_number is required")]),
            exceptions.FieldInvalid("idempotency_key", "must be 1 to 255 visible ASCII characters"),
            _batch_refused(exceptions.BatchNotCancelled, BatchStatus.PROCESSING),
            exceptions.NoContactsToReplace,
            exceptions.AgentMappingNotFound,
            exceptions.CampaignNotFound,
            exceptions.BatchNotFound,
            exceptions.BatchAlreadyReplaced(EXAMPLE_REPLACEMENT_ID),
            exceptions.IdempotencyKeyReused,
            api_errors.TooManyRequests,
            exceptions.BatchCreateFailed,
            api_errors.InternalError,
        ),
    },
)


def _page_parameters(prefix: str, default: int, maximum: int) -> list[OpenApiParameter]:
    return [
        OpenApiParameter(
            f"{prefix}limit",
            int,
            description=f"Page size, clamped to 1 to {maximum}. {default} if absent or not an integer in ASCII digits.",
        ),
        OpenApiParameter(
            f"{prefix}offset",
            int,
            description="Rows to skip. 0 if absent or not an integer in ASCII digits.",
        ),
    ]


list_batches = extend_schema(
    operation_id="calls-batch-list",
    summary="List batches",
    description="The batches that the caller may see, newest first." + _LIMITED_PER_AGENCY + _ANY_AGENCY_USER,
    tags=[FUNCTIONS_TAG],
    filters=False,
    parameters=[
        OpenApiParameter("status", str, enum=BatchStatus.values, description="Another value matches nothing."),
        OpenApiParameter("campaign_id", UUID),
        *_page_parameters("", 25, 100),
    ],
    responses={
        200: OpenApiResponse(BatchPageSerializer, description="A page of batches."),
        **error_responses(
            *_READ_ERRORS,
            exceptions.FieldInvalid("campaign_id", "must be a valid UUID"),
            api_errors.TooManyRequests,
            exceptions.BatchReadFailed,
            api_errors.InternalError,
        ),
    },
)

read = extend_schema(
    operation_id="calls-batch-get",
    summary="Get a batch",
    description=(
        "A batch that the caller may see and a page of its contacts, oldest first."
        + _LIMITED_PER_AGENCY
        + _ANY_AGENCY_USER
    ),
    tags=[FUNCTIONS_TAG],
    parameters=[
        OpenApiParameter("batch_id", UUID, required=True),
        OpenApiParameter(
            "contact_status", str, enum=ContactStatus.values, description="Another value matches nothing."
        ),
        *_page_parameters("contact_", 50, 200),
    ],
    responses={
        200: OpenApiResponse(BatchWithContactsSerializer, description="The batch and its contacts."),
        **error_responses(
            *_READ_ERRORS,
            *_BATCH_ID_ERRORS,
            api_errors.TooManyRequests,
            exceptions.BatchReadFailed,
            api_errors.InternalError,
        ),
    },
)
