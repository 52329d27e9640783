"""Calls that another service placed before the switch to this app, written by SQL as that service wrote them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.utils import timezone

from calls.models import Agency, Call, CallBatch, CampaignContact
from calls.tests.support.webhooks import call_object, event_body

CLAIM = """
    UPDATE campaign_contacts SET status = 'in_progress', attempts = 1, last_attempt_at = %s WHERE id = %s
"""
COUNT_CLAIM = "UPDATE call_batches SET queued = queued - 1, in_progress = in_progress + 1 WHERE id = %s"
STORE_CALL = "INSERT INTO calls (agency_id, ultravox_call_id) VALUES (%s, %s) RETURNING id"
LINK_CALL = "UPDATE campaign_contacts SET call_id = %s WHERE id = %s"
# What its webhook handler does about a call that was answered.
END_CALL = """
    UPDATE campaign_contacts SET status = 'completed', outcome = 'answered', completed_at = now()
    WHERE id = %s AND status = 'in_progress'
"""
COUNT_END = "UPDATE call_batches SET in_progress = in_progress - 1, completed = completed + 1 WHERE id = %s"


def claim(batch: CallBatch, *, ago: timedelta = timedelta(minutes=2)) -> CampaignContact:
    """Claim the next contact of the batch."""
    contact: CampaignContact = batch.contacts.dialable().oldest_first()[0]
    _execute(CLAIM, timezone.now() - ago, contact.pk)
    _execute(COUNT_CLAIM, batch.pk)
    contact.refresh_from_db()
    return contact


def store_call(contact: CampaignContact, call_id: str = "their-call", *, agency: Agency | None = None) -> Call:
    """Store the call of a claimed contact. Only the contact's ``call_id`` links the two."""
    with connection.cursor() as cursor:
        cursor.execute(STORE_CALL, [(agency or contact.agency).pk, call_id])
        (stored,) = cursor.fetchone()
    link_call(contact, stored)
    return Call.objects.get(pk=stored)


def link_call(contact: CampaignContact, call: UUID) -> None:
    _execute(LINK_CALL, call, contact.pk)


def place_call(batch: CallBatch, call_id: str = "their-call", *, ago: timedelta = timedelta(minutes=2)) -> Call:
    """Claim the next contact of the batch and store its call."""
    return store_call(claim(batch, ago=ago), call_id)


def end_event(
    call_id: str = "their-call", reason: str = "hangup", *, ended: datetime | None = None, **options: Any
) -> str:
    """Return the event that a call has ended, just now or at ``ended``."""
    ended = ended or timezone.now()
    times = {"created": ended - timedelta(seconds=55), "joined": ended - timedelta(seconds=45), "ended": ended}
    call = call_object(call_id, reason=reason, **options)
    return event_body("call.ended", call | {name: time.isoformat() for name, time in times.items() if call[name]})


def _execute(sql: str, *parameters: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
