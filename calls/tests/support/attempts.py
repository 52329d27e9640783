"""Attempts whose worker died, and the events of their calls."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from calls.dialler.claims import claim_next_contact
from calls.models import Agency, Call, CallBatch, CampaignContact, WebhookEvent
from calls.tests.support.factories import backdate_attempts
from calls.tests.support.webhooks import call_object, event_body

LONG_AGO = timedelta(hours=2)


def claim_and_die(batch: CallBatch) -> CampaignContact:
    """Claim a contact and backdate the claim, as if its worker had died before it recorded the result."""
    contact = claim_next_contact(batch)
    assert contact
    backdate_attempts(batch, LONG_AGO)
    return contact


def deliver_event(
    contact: CampaignContact,
    *,
    attempt: str | None = "1",
    call_id: str = "a-call",
    agency: Agency | None = None,
    **call: Any,
) -> None:
    """Store the event that a call of this contact has ended. ``call`` replaces values of the call."""
    metadata = {"contact_id": str(contact.pk)} | ({"attempt": attempt} if attempt else {})
    body = event_body("call.ended", call_object(call_id) | {"metadata": metadata} | call)
    Call.record_event(WebhookEvent.from_body(agency or contact.agency, body.encode()))
