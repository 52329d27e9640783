"""Batches that the dialler has started, and what it knows about them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from calls.dialler.claims import claim_next_contact
from calls.dialler.waiting import Waiting, waiting_for, with_dialling_state
from calls.models import CallBatch, CampaignContact
from calls.statuses import ContactStatus
from calls.tests.support.factories import Tenant


def started_batch(tenant: Tenant, *, queued: int = 1, **columns: Any) -> CallBatch:
    """Create a batch that the dialler has started, with ``queued`` contacts to call."""
    return change(tenant.batch(queued=queued), **{"started_at": timezone.now()} | columns)


def change(batch: CallBatch, **columns: Any) -> CallBatch:
    """Write columns of the batch, as another service would, and return the batch."""
    CallBatch.objects.filter(pk=batch.pk).update(**columns)
    return batch


def claim(batch: CallBatch) -> CampaignContact:
    """Claim a contact of the batch, which then has one more call in progress."""
    contact = claim_next_contact(batch)
    assert contact
    return contact


def add_call(batch: CallBatch, *, ago: timedelta) -> None:
    """Add a contact to the batch whose call has ended. It began ``ago``."""
    CampaignContact.objects.create(
        agency_id=batch.agency_id,
        campaign_id=batch.campaign_id,
        batch=batch,
        phone_number="+12125550000",
        status=ContactStatus.COMPLETED,
        outcome="answered",
        last_attempt_at=timezone.now() - ago,
        completed_at=timezone.now(),
    )


def waiting_of(batch: CallBatch) -> Waiting | None:
    """Return what the batch waits for now."""
    return waiting_for(with_dialling_state(CallBatch.objects.all()).get(pk=batch.pk))
