"""The webhook endpoint, to which the provider delivers the events of calls."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta
from typing import cast

from django.utils import timezone
from django.utils.crypto import constant_time_compare
from rest_framework import exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from calls.api import dialler_schema
from calls.api.base import EdgeFunctionViewSet
from calls.api.errors import NotStored
from calls.api.parsers import RawParser
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchNotFound, BatchReadFailed, DatabaseFailed
from calls.models import Agency, Call, WebhookEvent
from calls.parsing import parse_time, parse_uuid

# Maximum difference between a delivery's timestamp and our clock. The provider signs each repeated delivery again, with
# a new timestamp.
TIMESTAMP_TOLERANCE = timedelta(seconds=60)


class HasWebhookSecret(BasePermission):
    """Allows requests whose URL contains the agency's webhook secret."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """
        Set the view's ``agency``.

        :raises NotAuthenticated: the agency does not exist or has another secret. The answer does not tell which.
        :raises BatchReadFailed: a database error or timeout.
        """
        with database_errors_as(BatchReadFailed), transaction_with_timeouts():
            agency = _find_agency(view.kwargs["agency_id"])
        secret = (agency and agency.webhook_secret) or ""
        # Compare even without an agency, so that the response time does not tell whether it exists.
        if not constant_time_compare(secret, view.kwargs["secret"]) or not secret:
            raise exceptions.NotAuthenticated("wrong webhook secret" if agency else "unknown agency")
        view.agency = agency  # type: ignore[attr-defined]
        return True


def _find_agency(agency_id: str) -> Agency | None:
    try:
        return Agency.objects.filter(pk=parse_uuid(agency_id)).first()
    except ValueError:
        return None


def is_signed(body: bytes, timestamp: str, signatures: str, secret: str) -> bool:
    """
    Return whether the timestamp is recent and one of the signatures is the HMAC-SHA256 of body and timestamp.

    :param timestamp: the header as it was sent: ISO 8601, in UTC if it has no offset.
    :param signatures: hexadecimal, separated by commas.
    """
    try:
        sent = parse_time(timestamp)
    except ValueError:
        return False
    if abs(timezone.now() - sent) > TIMESTAMP_TOLERANCE:
        return False
    expected = hmac.new(secret.encode(), body + timestamp.encode(), hashlib.sha256).hexdigest()
    return any(constant_time_compare(expected, signature.strip().lower()) for signature in signatures.split(","))


class WebhookViewSet(EdgeFunctionViewSet):
    """Stores an event of the provider and applies it to the call and its contact."""

    authentication_classes = []
    permission_classes = [HasWebhookSecret]
    parser_classes = [RawParser]
    agency: Agency

    def handle_exception(self, exc: Exception) -> Response:
        """Answer 503 if the event could not be stored, so that the provider delivers it again."""
        return super().handle_exception(NotStored() if isinstance(exc, (DatabaseFailed, BatchNotFound)) else exc)

    @dialler_schema.ingest
    def ingest(self, request: Request, agency_id: str, secret: str) -> Response:
        body = cast(bytes, request.data or b"")
        signing_secret = self.agency.webhook_signing_secret
        if signing_secret and not is_signed(
            body,
            request.headers.get("X-Ultravox-Webhook-Timestamp", ""),
            request.headers.get("X-Ultravox-Webhook-Signature", ""),
            signing_secret,
        ):
            raise exceptions.NotAuthenticated("wrong or old webhook signature")
        Call.record_event(WebhookEvent.from_body(self.agency, body))
        return Response({"success": True})
