"""Delete the rows whose retention is over."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.core.management import call_command

from calls.database.transactions import database_errors_as
from calls.exceptions import CleanupFailed
from calls.models import IdempotencyKey, WebhookEvent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleanupResult:
    """How many rows were deleted. ``is_complete`` is False if the time limit was reached, so that rows may remain."""

    webhook_events: int
    idempotency_keys: int
    is_complete: bool


@database_errors_as(CleanupFailed)
def delete_expired(*, seconds: float = math.inf) -> CleanupResult:
    """
    Delete webhook events, idempotency keys and sessions of the admin whose retention is over.

    A retention of 0 days keeps the rows for ever.

    :param seconds: end after about this time. The next call continues.
    :raises CleanupFailed: a database error or timeout. What was deleted before stays deleted.
    """
    deadline = time.monotonic() + seconds
    call_command("clearsessions")
    events, keys = (
        model.objects.delete_older_than(timedelta(days=days), deadline=deadline) if days else 0
        for model, days in (
            (WebhookEvent, settings.WEBHOOK_EVENT_RETENTION),
            (IdempotencyKey, settings.IDEMPOTENCY_KEY_RETENTION),
        )
    )
    result = CleanupResult(events, keys, is_complete=time.monotonic() < deadline)
    logger.info("cleanup webhook_events=%d idempotency_keys=%d", events, keys)
    return result
