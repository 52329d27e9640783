"""Shortcuts for holds, replacements and cancels of all batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calls.audit import Source
from calls.inputs import NewReplacement
from calls.models import CallBatch, CreateResult, HoldResult
from calls.tests.support.factories import STAFF_ACTOR, Tenant


def hold(tenant: Tenant) -> HoldResult:
    return tenant.agency.hold(actor=STAFF_ACTOR, source=Source.API)


def release(tenant: Tenant) -> HoldResult:
    return tenant.agency.release(actor=STAFF_ACTOR, source=Source.API)


def replace(batch: CallBatch, **fields: Any) -> CreateResult:
    """Replace a cancelled batch. ``fields`` are those of the request."""
    new = NewReplacement.parse({"replaces": str(batch.pk)} | fields)
    return batch.replace(new, actor=STAFF_ACTOR, source=Source.API)


def cancel_all(tenant: Tenant) -> Iterator[Any]:
    """Cancel all batches of the tenant while the iterator is read. Each item is a batch with its result or error."""
    return CallBatch.objects.for_agency(tenant.agency.pk).cancel_all(actor=STAFF_ACTOR, source=Source.API)
