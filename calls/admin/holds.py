"""The banner about agencies on hold."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from django.core.exceptions import ObjectDoesNotExist

from calls.models import Agency, CallBatch


def held_agencies(batches: Iterable[CallBatch]) -> list[Agency]:
    """Return the agencies of ``batches`` that are on hold, for the banner of a page."""
    agencies = {}
    for batch in batches:
        # Another service may have deleted the agency.
        with suppress(ObjectDoesNotExist):
            agencies[batch.agency_id] = batch.agency
    return on_hold(agencies.values())


def on_hold(agencies: Iterable[Agency]) -> list[Agency]:
    """Return those of ``agencies`` that are on hold."""
    return [agency for agency in agencies if agency.held_at is not None]
