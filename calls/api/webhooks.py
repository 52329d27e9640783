"""What the provider says of calls, and whether it really is the provider who says it."""

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

from calls.api import schema
from calls.api.errors import NotStored
from calls.api.parsers import RawParser
from calls.api.views import EdgeFunctionViewSet
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchNotFound, BatchReadFailed, DatabaseFailed
from calls.models import Agency, Call, WebhookEvent
from calls.parsing import parse_time, parse_uuid

# How far the time at which a delivery was signed may be from ours. Each is signed when it is sent, also one that is
# repeated.
TOLERANCE = timedelta(seconds=60)


class HasWebhookSecret(BasePermission):
    """Lets in whoever knows the address that the agency has given to the provider."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """
        Whether to let them in. Sets the view's ``agency``.

        :raises NotAuthenticated: there is no such agency, or its secret is another: the two are indistinguishable.
        :raises BatchReadFailed: the database cannot say.
        """
        with database_errors_as(BatchReadFailed), transaction_with_timeouts():
            agency = _agency(view.kwargs["agency_id"])
        secret = (agency and agency.webhook_secret) or ""
        # Compared in any case, so that the time it takes tells nothing.
        if not constant_time_compare(secret, view.kwargs["secret"]) or not secret:
            raise exceptions.NotAuthenticated
        view.agency = agency  # type: ignore[attr-defined]
        return True


def _agency(agency_id: str) -> Agency | None:
    try:
        return Agency.objects.filter(pk=parse_uuid(agency_id)).first()
    except ValueError:
        return None


def is_signed(body: bytes, timestamp: str, signatures: str, secret: str) -> bool:
    """
    Whether one of the ``signatures``, a list with commas, is the one of ``body`` at that time, and the time is now.

    :param timestamp: ISO 8601, as it was sent; without an offset it is UTC.
    """
    try:
        sent = parse_time(timestamp)
    except ValueError:
        return False
    if abs(timezone.now() - sent) > TOLERANCE:
        return False
    expected = hmac.new(secret.encode(), body + timestamp.encode(), hashlib.sha256).hexdigest()
    return any(constant_time_compare(expected, signature.strip().lower()) for signature in signatures.split(","))


class WebhookViewSet(EdgeFunctionViewSet):
    """Where the provider delivers its events."""

    authentication_classes = []
    permission_classes = [HasWebhookSecret]
    parser_classes = [RawParser]
    agency: Agency

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(NotStored() if isinstance(exc, (DatabaseFailed, BatchNotFound)) else exc)

    @schema.ingest
    def ingest(self, request: Request, agency_id: str, secret: str) -> Response:
        body = cast(bytes, request.data or b"")
        key = self.agency.webhook_signing_secret
        if key and not is_signed(
            body,
            request.headers.get("X-Ultravox-Webhook-Timestamp", ""),
            request.headers.get("X-Ultravox-Webhook-Signature", ""),
            key,
        ):
            raise exceptions.NotAuthenticated
        Call.record_event(WebhookEvent.from_body(self.agency, body))
        return Response({"success": True})
