"""Translates exceptions into HTTP: a status and ``{"error": "<text>", "code": "<machine code>"}``."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from django.core import exceptions as django
from django.http import HttpRequest, JsonResponse
from django.utils.log import log_response
from rest_framework import exceptions as drf
from rest_framework.fields import DateTimeField
from rest_framework.response import Response
from rest_framework.views import set_rollback

from calls.exceptions import (
    AgencyNotFound,
    AgentMappingNotFound,
    BatchAlreadyReplaced,
    BatchNotFound,
    BatchRefused,
    CallsError,
    CampaignNotFound,
    DatabaseFailed,
    FieldInvalid,
    FieldRequired,
    HoldUnconfirmed,
    IdempotencyKeyReused,
    InsufficientRole,
    InvalidContacts,
    NoAgency,
    NoContactsToReplace,
)
from calls.models import AgencyUser

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


class TooManyRequests(CallsError):
    """The agency has as many slow requests in this process as it may have. Nothing was done."""

    code = "too_many_requests"
    text = "Too many requests at once. Try again in a few seconds"


class InternalError(CallsError):
    code = "internal_error"
    text = "Internal server error"


class NotStored(CallsError):
    """The webhook event was not stored: a lock timeout or another database error. The provider delivers it again."""

    code = "not_stored"
    text = "Nothing was stored. Try again later"


# The webhook endpoint answers database errors and BatchNotFound with NotStored instead (webhooks.py).
_HTTP_STATUS: dict[type[CallsError], HTTPStatus] = {
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
    BatchAlreadyReplaced: HTTPStatus.CONFLICT,
    NoContactsToReplace: HTTPStatus.BAD_REQUEST,
    AgencyNotFound: HTTPStatus.NOT_FOUND,
    HoldUnconfirmed: HTTPStatus.SERVICE_UNAVAILABLE,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    NotStored: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def http_status(error: CallsError | type[CallsError]) -> HTTPStatus:
    kind = error if isinstance(error, type) else type(error)
    statuses = (status for base, status in _HTTP_STATUS.items() if issubclass(kind, base))
    return next(statuses, HTTPStatus.INTERNAL_SERVER_ERROR)


def error_body(error: CallsError | type[CallsError]) -> dict[str, Any]:
    """
    Return the JSON body of the answer.

    When a batch's status does not allow the request, the body has that status: a client that lost its first answer can
    tell whether the first request succeeded.
    """
    body: dict[str, Any] = {"error": error.text, "code": error.code}
    if isinstance(error, BatchRefused):
        body |= {
            "batch_id": str(error.batch_id),
            "status": error.status,
            "completed_at": error.completed_at and DateTimeField().to_representation(error.completed_at),
        }
    if isinstance(error, BatchAlreadyReplaced):
        body["batch_id"] = str(error.batch_id)
    if isinstance(error, InvalidContacts):
        body["invalid_contacts"] = [{"index": index, "reason": reason} for index, reason in error.first]
    return body


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """
    Answer every exception that a view raises as ``{"error", "code"}``. DRF's ``EXCEPTION_HANDLER``.

    Unexpected exceptions are logged with their traceback; the client gets "Internal server error".
    """
    # With ATOMIC_REQUESTS the transaction would otherwise be committed, because the exception ends here.
    set_rollback()
    headers: dict[str, str] = {}
    reason = ""
    if isinstance(error, drf.MethodNotAllowed):
        headers["Allow"] = ", ".join(context["view"].allowed_methods)
        error = MethodNotAllowed()
    elif isinstance(error, drf.NotAuthenticated | drf.AuthenticationFailed):
        headers["WWW-Authenticate"] = "Bearer"
        reason = str(error.detail)
        error = Unauthorized()
    elif isinstance(error, NoAgency | InsufficientRole):
        reason = _describe_caller(context["request"].user, error)
    elif isinstance(error, NotStored | TooManyRequests | HoldUnconfirmed):
        headers["Retry-After"] = "5"
    elif isinstance(error, django.SuspiciousOperation | django.BadRequest):
        error = BadRequest()
    elif not isinstance(error, CallsError):
        logger.error("unexpected error in %s", context["request"].path, exc_info=error)
        error = InternalError()
    response = Response(error_body(error), status=http_status(error), headers=headers)
    if reason:
        # Django logs each answer of 4xx once. This is the same line, with the reason.
        request = context["request"]
        log_response("%s (%s): %s", response.reason_phrase, reason, request.path, response=response, request=request)
    return response


def _describe_caller(user: AgencyUser, error: NoAgency | InsufficientRole) -> str:
    """Return the reason and the caller for the log."""
    if isinstance(error, InsufficientRole):
        return f"insufficient role: {user.role}, user={user.pk}, agency={user.agency_id}"
    return f"{'no users row' if user._state.adding else 'users row without agency'}, user={user.pk}"


def bad_request(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's ``handler400``, for requests that reach no view, for example because their host is not allowed."""
    return JsonResponse(error_body(BadRequest), status=http_status(BadRequest))


def not_found(request: HttpRequest, exception: Exception | None = None) -> JsonResponse:
    """Django's ``handler404``, also used as the view of all paths that have no other view."""
    return JsonResponse(error_body(NotFound), status=http_status(NotFound))


def internal_error(request: HttpRequest) -> JsonResponse:
    """Django's ``handler500``. Django has logged the traceback."""
    return JsonResponse(error_body(InternalError), status=http_status(InternalError))
