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
from uuid import UUID

from django.conf import settings
from django.db import connection

from calls.dialler.accounts import defer_account, get_provider, has_other_key, is_paused_here, pause_here
from calls.dialler.claims import claim_next_contact
from calls.dialler.evidence import find_unrecorded_call
from calls.exceptions import AgencyUpdateFailed, BatchNotFound, BatchReadFailed, CredentialsUnusable
from calls.models import Call, CallBatch, CampaignContact
from calls.providers.base import (
    AllCallsRefused,
    CallRequest,
    PlacementRefused,
    PlacementUnclear,
    Provider,
    ProviderBusy,
    ProviderUnreachable,
)
from calls.statuses import UNCLEAR, not_placed_note

logger = logging.getLogger(__name__)


class DialOutcome(Enum):
    """The result of an attempt to place one call of a batch."""

    PLACED = "placed"
    FAILED = "failed"
    DEFERRED = "deferred"
    """
    No call was placed, and the attempt does not count: the account takes no calls, its key cannot be used or was
    replaced, or this process cannot connect.
    """
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
    :raises BatchReadFailed: the agency's key could not be read; no call was placed.
    :raises BatchUpdateFailed: no contact could be claimed, or the result of a placement could not be recorded. The
        sweep records it later.
    """
    try:
        provider = get_provider(batch.agency_id)
    except CredentialsUnusable as unusable:
        logger.warning("dial batch=%s agency=%s outcome=%s: %s", batch.pk, batch.agency_id, unusable.code, unusable)
        return DialOutcome.DEFERRED
    if is_paused_here(provider):
        return DialOutcome.NOTHING_CLAIMED
    if connection.in_atomic_block:
        raise RuntimeError("The claim must be committed before the request is sent, so do not open a transaction.")
    if not _can_record_calls():
        return DialOutcome.NOTHING_CLAIMED
    started = time.monotonic()
    try:
        contact = claim_next_contact(batch, called_before=called_before)
    except BatchNotFound:
        logger.error("dial batch=%s: the batch does not exist", batch.pk)
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
    return _place(provider, request, contact, batch.agency_id)


_recordable = False


def _can_record_calls() -> bool:
    """Return whether calls can be recorded. Ask the database until it says so, and then never again."""
    global _recordable
    _recordable = _recordable or Call.can_be_recorded()
    return _recordable


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


def _place(provider: Provider, request: CallRequest, contact: CampaignContact, agency_id: UUID) -> DialOutcome:
    try:
        call_id = provider.place(request)
    except ProviderUnreachable as unreachable:
        pause_here(provider, unreachable.pause)
        contact.release_claim()
        pause = f"pause={unreachable.pause.total_seconds():.0f} in this process"
        outcome, detail = DialOutcome.DEFERRED, f"{unreachable}, {pause}"
    except ProviderBusy as busy:
        # Defer the account before releasing the claim. Otherwise another worker could claim the contact and send a
        # request in between.
        pause = _defer_account(agency_id, busy, provider)
        contact.release_claim()
        outcome, detail = DialOutcome.DEFERRED, f"{busy}, {pause}"
    except AllCallsRefused as refused:
        outcome, detail = _record_all_refused(contact, refused, is_old_key=_is_old_key(agency_id, provider))
    except PlacementRefused as refused:
        note = f"Number refused: {refused}" if refused.names_number else not_placed_note(str(refused))
        contact.record_rejected(reason=note, is_about_number=refused.names_number)
        outcome, detail = DialOutcome.FAILED, str(refused)
    except PlacementUnclear as unclear:
        contact.record_unclear(f"{UNCLEAR}{unclear}")
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


def _record_all_refused(
    contact: CampaignContact, refused: AllCallsRefused, *, is_old_key: bool
) -> tuple[DialOutcome, str]:
    """Pause the batch. A refusal of a key that has been replaced meanwhile says nothing about the account."""
    if is_old_key:
        contact.release_claim()
        return DialOutcome.DEFERRED, f"{refused}, with a key that the agency no longer has"
    paused = contact.record_batch_refused(reason=str(refused), unless_others_accepted=refused.unless_others_accepted)
    return DialOutcome.PAUSED if paused else DialOutcome.FAILED, str(refused)


def _is_old_key(agency_id: UUID, provider: Provider) -> bool:
    try:
        return has_other_key(agency_id, provider)
    except BatchReadFailed:
        # The refusal must be recorded nevertheless.
        return False


def _defer_account(agency_id: UUID, busy: ProviderBusy, provider: Provider) -> str:
    """Defer an account that takes no calls, and describe for the log what was done. Raises no database error."""
    try:
        deferred = defer_account(agency_id, busy.pause, provider=provider)
    except AgencyUpdateFailed as failed:
        # The next request gets the same answer. The claim must be released nevertheless.
        return f"no pause: {failed.code}"
    return f"pause={busy.pause.total_seconds():.0f}" if deferred else "no pause: the agency has another key by now"


def _call_request(contact: CampaignContact) -> CallRequest:
    batch = cast(CallBatch, contact.batch)
    custom = contact.custom_data if isinstance(contact.custom_data, dict) else {}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in custom.items()}
    return CallRequest(
        agent_id=batch.agent_id or "",
        to=contact.phone_number,
        caller_id=batch.from_number,
        first_speaker_text=batch.first_speaker_text,
        metadata=metadata
        | {"batch_id": str(batch.pk), "contact_id": str(contact.pk), "attempt": str(contact.attempts)},
    )
