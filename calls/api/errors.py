"""The one place where refusals become HTTP: ``{"error": "<text>", "code": "<machine code>"}`` and a status."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, JsonResponse
from rest_framework import exceptions as drf
from rest_framework.fields import DateTimeField
from rest_framework.response import Response
from rest_framework.views import set_rollback

from calls.exceptions import (
    AgentMappingNotFound,
    BatchNotFound,
    BatchRefused,
    CallsError,
    CampaignNotFound,
    DatabaseFailed,
    FieldInvalid,
    FieldRequired,
    IdempotencyKeyReused,
    InsufficientRole,
    InvalidContacts,
    NoAgency,
)

logger = logging.getLogger(__name__)


class MethodNotAllowed(CallsError):
    code = "method_not_allowed"
    text = "Method not allowed"


class Unauthorized(CallsError):
    code = "unauthorized"
    text = "Missing or invalid authorization header"


class BadRequest(CallsError):
    code = "bad_request"
    text = "Bad request"


class NotFound(CallsError):
    code = "not_found"
    text = "Not found"


class BodyTooLarge(CallsError):
    code = "body_too_large"

    def __init__(self, text: str = "Request body too large") -> None:
        super().__init__()
        self.text = text


class InternalError(CallsError):
    code = "internal_error"
    text = "Internal server error"


class NotStored(CallsError):
    """Somebody else has the batch, or the database is gone. Whoever delivers it will deliver it again."""

    code = "not_stored"
    text = "Nothing was stored. Try again later"


_STATUS: dict[type[CallsError], HTTPStatus] = {
    MethodNotAllowed: HTTPStatus.METHOD_NOT_ALLOWED,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    NoAgency: HTTPStatus.FORBIDDEN,
    InsufficientRole: HTTPStatus.FORBIDDEN,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BadRequest: HTTPStatus.BAD_REQUEST,
    FieldRequired: HTTPStatus.BAD_REQUEST,
    FieldInvalid: HTTPStatus.BAD_REQUEST,
    InvalidContacts: HTTPStatus.BAD_REQUEST,
    AgentMappingNotFound: HTTPStatus.NOT_FOUND,
    CampaignNotFound: HTTPStatus.NOT_FOUND,
    BatchNotFound: HTTPStatus.NOT_FOUND,
    NotFound: HTTPStatus.NOT_FOUND,
    BatchRefused: HTTPStatus.BAD_REQUEST,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotStored: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: CallsError | type[CallsError]) -> HTTPStatus:
    """The HTTP status that says this refusal."""
    kind = error if isinstance(error, type) else type(error)
    return next(status for refusal, status in _STATUS.items() if issubclass(kind, refusal))


def error_body(error: CallsError | type[CallsError]) -> dict[str, Any]:
    """What a client gets to read; of a batch also how it is, so that a lost first answer can be told."""
    body: dict[str, Any] = {"error": error.text, "code": error.code}
    if isinstance(error, BatchRefused):
        body |= {
            "batch_id": str(error.batch_id),
            "status": error.status,
            "completed_at": error.completed_at and DateTimeField().to_representation(error.completed_at),
        }
    if isinstance(error, InvalidContacts):
        body["invalid_contacts"] = [{"index": index, "reason": reason} for index, reason in error.first]
    return body


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Answer every exception of a function in the contract's shape. What nobody foresaw is logged, never shown."""
    # Under ATOMIC_REQUESTS an answer, even an error, would commit what was written before it.
    set_rollback()
    headers: dict[str, str] = {}
    if isinstance(error, drf.MethodNotAllowed):
        headers["Allow"] = ", ".join(context["view"].allowed_methods)
        error = MethodNotAllowed()
    elif isinstance(error, drf.NotAuthenticated | drf.AuthenticationFailed):
        headers["WWW-Authenticate"] = "Bearer"
        error = Unauthorized()
    elif isinstance(error, NotStored):
        headers["Retry-After"] = "5"
    elif isinstance(error, SuspiciousOperation):
        error = BadRequest()
    elif not isinstance(error, CallsError):
        logger.error("unforeseen error in %s", context["request"].path, exc_info=error)
        error = InternalError()
    return Response(error_body(error), status=status_of(error), headers=headers)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's ``handler400``: a request that no view gets to see, such as one for a host that is not allowed."""
    return JsonResponse(error_body(BadRequest), status=status_of(BadRequest))


def not_found(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's ``handler404``, and the view of every path that is nobody else's."""
    return JsonResponse(error_body(NotFound), status=status_of(NotFound))


def internal_error(request: HttpRequest) -> JsonResponse:
    """Django's ``handler500``: the traceback is in the log."""
    return JsonResponse(error_body(InternalError), status=status_of(InternalError))
