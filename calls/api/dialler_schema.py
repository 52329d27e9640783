"""Decorators that describe the endpoints of the cron service and of the provider in ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers

from calls import exceptions
from calls.api import errors as api_errors
from calls.api.parsers import RawParser
from calls.api.schema import EXAMPLE_BATCH_ID, FUNCTIONS_TAG, JSON, error_responses
from calls.api.serializers import PassSerializer, StoredSerializer

F = TypeVar("F", bound=Callable[..., Any])

_describe_process = partial(
    extend_schema,
    summary="Run the dialler",
    description=(
        "Runs one pass of the dialler, for cron services: it starts the due batches of all agencies and places their "
        "calls, in turns, until no call can start or 50 seconds are over. With workers no pass is needed. Passes and "
        "workers may run at the same time. Requires `Authorization: Bearer <CRON_SECRET>`. Answers 404 if the server "
        "has no `CRON_SECRET`."
    ),
    tags=[FUNCTIONS_TAG],
    request=None,
    responses={
        200: OpenApiResponse(
            PassSerializer,
            description="What the pass did.",
            examples=[
                OpenApiExample("done", value={"batches_processed": 2, "calls_initiated": 40, "calls_failed": 1}),
                OpenApiExample(
                    "nothing to do",
                    value={
                        "batches_processed": 0,
                        "calls_initiated": 0,
                        "calls_failed": 0,
                        "processed": 0,
                        "message": "No batches to process.",
                    },
                ),
            ],
        ),
        **error_responses(
            api_errors.MethodNotAllowed,
            api_errors.Unauthorized,
            api_errors.NotFound,
            exceptions.BatchReadFailed,
            api_errors.InternalError,
        ),
    },
)


def process(view: F) -> F:
    """Describe both methods, which do the same. Each operation needs an id of its own."""
    by_post = _describe_process(operation_id="calls-batch-process", methods=["POST"])
    by_get = _describe_process(operation_id="calls-batch-process-by-get", methods=["GET"])
    return by_post(by_get(view))


ingest = extend_schema(
    operation_id="webhook-ingest",
    summary="Receive a webhook event",
    description=(
        "The provider delivers the events of calls here: `call.started`, `call.joined`, `call.ended` and "
        "`call.billed`. They may be delivered in any order and repeatedly; each takes effect once. Other events are "
        "stored and have no effect. The secret in the URL authenticates the provider. If the agency has a signing "
        "secret, the signature is checked as well."
    ),
    tags=[FUNCTIONS_TAG],
    parameters=[
        OpenApiParameter("agency_id", UUID, "path"),
        OpenApiParameter("secret", str, "path", description="The agency's `webhook_secret`."),
        OpenApiParameter(
            "X-Ultravox-Webhook-Timestamp", str, "header", description="ISO 8601, at most 60 seconds old."
        ),
        OpenApiParameter(
            "X-Ultravox-Webhook-Signature",
            str,
            "header",
            description="Hexadecimal HMAC-SHA256 of raw body + timestamp. May be a list separated by commas; at least "
            "one must match.",
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
            description="The event is stored.",
            examples=[OpenApiExample("stored", value={"success": True})],
        ),
        **error_responses(
            api_errors.MethodNotAllowed,
            api_errors.Unauthorized,
            api_errors.BodyTooLarge(RawParser.too_large_text),
            exceptions.FieldInvalid("body", "must be a JSON object"),
            exceptions.FieldRequired("event"),
            api_errors.NotStored,
            api_errors.InternalError,
        ),
    },
)
