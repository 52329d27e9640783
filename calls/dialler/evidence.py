"""Calls that took place although nothing was recorded, according to the events that the provider delivered."""

from __future__ import annotations

from datetime import datetime
from typing import cast
from uuid import UUID

from django.db.models import Exists, OuterRef

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchReadFailed
from calls.models import Call, CampaignContact, WebhookEvent
from calls.providers.base import belongs_to_attempt


@database_errors_as(BatchReadFailed)
def find_unrecorded_call(contact: CampaignContact, *, attempt: int, agency_id: UUID) -> str | None:
    """
    Return the provider's id of a call of this attempt that was not recorded, or None if no event of one is stored.

    The provider may have deleted the call. A call that another service stored without its contact counts as not
    recorded.

    :raises BatchReadFailed: a database error or timeout.
    """
    recorded = Call.objects.filter(ultravox_call_id=OuterRef("ultravox_call_id"), contact__isnull=False)
    events = WebhookEvent.objects.about_contact(contact.pk).filter(~Exists(recorded), agency=agency_id)
    since = cast(datetime, contact.last_attempt_at)
    with transaction_with_timeouts():
        calls = (
            event.ultravox_call_id
            for event in events.order_by("pk").iterator()
            if belongs_to_attempt(event.call, attempt, since)
        )
        return next(calls, None)
