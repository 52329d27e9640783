"""Cancelled batches and their replacements."""

from __future__ import annotations

from typing import Any

from calls.audit import Source
from calls.inputs import NewReplacement
from calls.models import CallBatch, CampaignContact
from calls.tests.support.factories import STAFF_ACTOR, Tenant, cancel


def cancelled_batch(tenant: Tenant, **contacts: int) -> CallBatch:
    """Create a batch with contacts by status, and cancel it."""
    batch = tenant.batch(**contacts or {"queued": 1})
    cancel(batch)
    return batch


def replace(batch: CallBatch, **fields: Any) -> CallBatch:
    """Replace the batch, with other values for these fields. Return the new batch."""
    new = NewReplacement.parse({"replaces": str(batch.pk)} | fields)
    return batch.replace(new, actor=STAFF_ACTOR, source=Source.API).batch


def numbers_of(batch: CallBatch) -> list[str]:
    """Return the phone numbers of the batch's contacts in the order in which they are called."""
    return list(CampaignContact.objects.filter(batch=batch).in_call_order().values_list("phone_number", flat=True))
