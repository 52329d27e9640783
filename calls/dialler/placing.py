"""Claim one contact of a batch and place its call."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from functools import partial
from typing import cast

from django.conf import settings
from django.db import connection, transaction

from calls.database.transactions import database_errors_as
from calls.dialler.claims import claim_next_contact
from calls.dialler.evidence import find_unrecorded_call
from calls.exceptions import BatchNotFound, BatchUpdateFailed
from calls.models import Call, CallBatch, CampaignContact
from calls.providers import get_provider
from calls.providers.base import (
    AllCallsRefused,
    CallRequest,
    PlacementRefused,
    PlacementUnclear,
    Provider,
    ProviderBusy,
)
from calls.statuses import not_placed_note

logger = logging.getLogger(__name__)


class DialOutcome(Enum):
    """The result of an attempt to place one call of a batch."""

    PLACED = "placed"
    FAILED = "failed"
    HELD = "held"
    """The provider takes no calls at the moment, so the batch waits."""
    PAUSED = "paused"
    """The provider refuses all calls of the batch. The attempt does not count, and a processing batch was paused."""
    ALREADY_CALLED = "already_called"
    """The previous attempt was given back, but its call took place. It was recorded, and no request was sent."""
    NOTHING_CLAIMED = "nothing_claimed"
    """No contact could be claimed."""


def place_next_call(
    batch: CallBatch, *, called_before: datetime | None = None, on_claim: Callable[[], None] | None = None
) -> DialOutcome:
    """
    Claim one contact of the batch, if a call may start, and place its call. At most one request is sent.

    The claim is committed before the request is sent, so no contact is called twice, and no contact is claimed after
    the batch was cancelled. Do not call this inside a transaction.

    :param batch: only its id and its agency's id are used.
    :param called_before: leave out contacts that were called since then.
    :param on_claim: called once a contact is claimed, before the request is sent.
    :raises BatchNotFound: the batch was deleted while the call was being placed.
    :raises BatchUpdateFailed: no contact could be claimed, or the result of a placement could not be recorded. The
        sweep records it later.
    """
    provider = get_provider()
    started = time.monotonic()
    with database_errors_as(BatchUpdateFailed), transaction.atomic(durable=True):
        try:
            contact = claim_next_contact(batch, called_before=called_before)
        except BatchNotFound:
            logger.error("dial batch=%s: the batch or its agent mapping does not exist", batch.pk)
            contact = None
    if contact is None:
        return DialOutcome.NOTHING_CLAIMED
    if on_claim is not None:
        on_claim()
    if contact.was_given_back and _record_earlier_call(contact):
        return DialOutcome.ALREADY_CALLED
    request = _call_request(contact)
    if time.monotonic() - started > settings.ULTRAVOX_TIMEOUT:
        # This process was suspended, or its COMMIT took long. The sweep may be about to release this claim.
        contact.release_claim()
        return DialOutcome.NOTHING_CLAIMED
    # Return the connection to the pool while the provider answers.
    connection.close()
    return _place(provider, request, contact)


def _record_earlier_call(contact: CampaignContact) -> bool:
    """
    Record the call of the previous attempt if a stored event proves it. Return whether it was recorded.

    A released claim gives its attempt number to the next claim, and a rejected one does not. So look for both numbers.
    """
    batch = cast(CallBatch, contact.batch)
    find_unrecorded = partial(find_unrecorded_call, contact, agency_id=batch.agency_id)
    call_id = find_unrecorded(attempt=contact.attempts) or find_unrecorded(attempt=contact.attempts - 1)
    if call_id is None or not Call.record_placed(contact, call_id, caller_id=batch.from_number):
        return False
    logger.warning(
        "dial batch=%s contact=%s attempt=%s outcome=%s call=%s",
        *(batch.pk, contact.pk, contact.attempts, DialOutcome.ALREADY_CALLED.value, call_id),
    )
    return True


def _place(provider: Provider, request: CallRequest, contact: CampaignContact) -> DialOutcome:
    try:
        call_id = provider.place(request)
    except ProviderBusy as busy:
        contact.release_claim(hold=busy.pause)
        outcome, detail = DialOutcome.HELD, f"{busy}, pause={busy.pause.total_seconds():.0f}"
    except AllCallsRefused as refused:
        paused = contact.record_batch_refused(
            reason=str(refused), unless_others_accepted=refused.unless_others_accepted
        )
        outcome, detail = DialOutcome.PAUSED if paused else DialOutcome.FAILED, str(refused)
    except PlacementRefused as refused:
        note = f"Number refused: {refused}" if refused.names_number else not_placed_note(str(refused))
        contact.record_rejected(reason=note, is_about_number=refused.names_number)
        outcome, detail = DialOutcome.FAILED, str(refused)
    except PlacementUnclear as unclear:
        contact.record_unclear(f"Unclear: {unclear}")
        outcome, detail = DialOutcome.FAILED, f"unclear, {unclear}"
    else:
        recorded = Call.record_placed(contact, call_id, caller_id=request.caller_id)
        outcome, detail = DialOutcome.PLACED if recorded else DialOutcome.FAILED, call_id
    logger.log(
        logging.INFO if outcome is DialOutcome.PLACED else logging.WARNING,
        "dial batch=%s contact=%s attempt=%s outcome=%s call=%s",
        *(contact.batch_id, contact.pk, contact.attempts, outcome.value, detail),
    )
    return outcome


def _call_request(contact: CampaignContact) -> CallRequest:
    batch = cast(CallBatch, contact.batch)
    custom = contact.custom_data if isinstance(contact.custom_data, dict) else {}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in custom.items()}
    return CallRequest(
        agent_id=batch.agent_mapping.ultravox_agent_id,
        to=contact.phone_number,
        caller_id=batch.from_number,
        first_speaker_text=batch.agent_mapping.first_speaker_text,
        metadata=metadata
        | {"batch_id": str(batch.pk), "contact_id": str(contact.pk), "attempt": str(contact.attempts)},
    )
