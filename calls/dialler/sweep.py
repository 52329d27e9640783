"""The sweep: find out about calls whose result was never recorded, from stored events and from the provider."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import cast
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.dialler.accounts import get_provider, lookup_after
from calls.dialler.evidence import find_unrecorded_call
from calls.exceptions import BatchReadFailed, CallsError
from calls.models import Call, CallBatch, CampaignContact, WebhookEvent
from calls.models.querysets import CampaignContactQuerySet
from calls.providers.base import LONGEST_PAUSE, ProviderUnavailable
from calls.statuses import UNCLEAR

logger = logging.getLogger(__name__)

# The most contacts of each kind that one sweep asks about, and the seconds after which it stops.
MAX_CONTACTS = 500
SWEEP_SECONDS = 50.0
# A call without a recorded end is given up after this time.
LOST_AFTER = timedelta(days=1)


class SweepOutcome(Enum):
    """What a sweep found out about one contact."""

    RECORDED = "recorded"
    """There was a call that was not recorded yet."""
    GIVEN_BACK = "given_back"
    """
    There was no call. The contact was queued again, has failed after its last attempt, or was skipped in an
    ended batch.
    """
    ENDED = "ended"
    """The call has ended, or was given up."""
    UNCLEAR = "unclear"
    """The provider or the database could not answer."""
    IN_PROGRESS = "in_progress"
    """The call is still in progress."""
    TOO_LATE = "too_late"
    """The attempt ended while the provider was being asked."""


@dataclass(frozen=True)
class SweepResult:
    """How many contacts a sweep dealt with, by :class:`SweepOutcome`."""

    recorded: int = 0
    given_back: int = 0
    ended: int = 0
    unclear: int = 0


@database_errors_as(BatchReadFailed)
def batches_to_sweep() -> list[UUID]:
    """
    Return the batches with a contact for :func:`run_sweep` to ask about.

    :raises BatchReadFailed: a database error or timeout.
    """
    with transaction_with_timeouts():
        unsettled = _unrecorded() | _without_end()
        return list(unsettled.order_by().values_list("batch", flat=True).distinct())


def run_sweep(batch_ids: Collection[UUID] | None = None) -> SweepResult:
    """
    Settle contacts whose call has no recorded result, from stored events and from the provider.

    - No call was recorded within four times ``ULTRAVOX_TIMEOUT``, because a worker died or the provider's answer was
      unclear: record the call if another service has stored it, if an event of it was delivered, or if the provider has
      it. If not, release the claim, or count the attempt as rejected after an unclear answer.
    - A call was recorded and its attempt began more than ``lookup_after()`` ago: record its end if it has ended.
    - The attempt began more than a day ago: give it up.

    Each agency's calls are looked up in its own account. A key that cannot be used leaves that agency's calls unclear.

    :param batch_ids: sweep these batches only.
    :raises BatchReadFailed: the contacts could not be read.
    """
    deadline = time.monotonic() + SWEEP_SECONDS
    questions = _questions(batch_ids)
    # In random order, so that calls about which the provider gives no answer do not always come first.
    random.shuffle(questions)
    # A provider that does not answer uses up the time. The next sweep asks about the rest.
    outcomes = Counter(_settle(contact, ask) for contact, ask in questions if time.monotonic() < deadline)
    return SweepResult(
        recorded=outcomes[SweepOutcome.RECORDED],
        given_back=outcomes[SweepOutcome.GIVEN_BACK],
        ended=outcomes[SweepOutcome.ENDED],
        unclear=outcomes[SweepOutcome.UNCLEAR],
    )


@database_errors_as(BatchReadFailed)
def _questions(batch_ids: Collection[UUID] | None) -> list[tuple[CampaignContact, Callable[[], SweepOutcome]]]:
    """Return the contacts to ask about, each with the function that asks."""
    with transaction_with_timeouts():
        unrecorded = _unrecorded(batch_ids).select_related("batch")[:MAX_CONTACTS]
        without_end = list(_without_end(batch_ids)[:MAX_CONTACTS])
        calls = Call.objects.select_related("agency").in_bulk([contact.call_id for contact in without_end])
        return [
            *((contact, partial(_find_call, contact)) for contact in unrecorded),
            *((contact, partial(_look_up_call, contact, calls.get(contact.call_id))) for contact in without_end),
        ]


def _unrecorded(batch_ids: Collection[UUID] | None = None) -> CampaignContactQuerySet:
    """Return the contacts of whose call nothing was recorded in time, in random order."""
    # A request that was sent before this time has reached the provider, or never will.
    sent_before = Now() - timedelta(seconds=4 * settings.ULTRAVOX_TIMEOUT)
    return _in_progress(batch_ids).filter(call_id=None, last_attempt_at__lt=sent_before)


def _without_end(batch_ids: Collection[UUID] | None = None) -> CampaignContactQuerySet:
    """Return the contacts whose call was recorded and should have ended by now, in random order."""
    return _in_progress(batch_ids).filter(call_id__isnull=False, last_attempt_at__lt=Now() - lookup_after())


def _in_progress(batch_ids: Collection[UUID] | None) -> CampaignContactQuerySet:
    # A batch that waits for longer than any Retry-After belongs to another dialler. Its contacts are left alone, except
    # for calls that we placed, or whose placement was unclear.
    placed_by_us = Exists(Call.objects.filter(pk=OuterRef("call_id"), metadata__has_key="attempt"))
    is_unclear = Q(call_id=None, outcome_notes__startswith=UNCLEAR)
    of_other_diallers = Q(batch__dial_after__gt=Now() + LONGEST_PAUSE) & ~placed_by_us & ~is_unclear
    return CampaignContact.objects.with_call_in_progress(batch_ids).exclude(of_other_diallers).order_by("?")


def _settle(contact: CampaignContact, ask: Callable[[], SweepOutcome]) -> SweepOutcome:
    outcome = _ask_safely(contact, ask)
    is_lost = cast(datetime, contact.last_attempt_at) < timezone.now() - LOST_AFTER
    if is_lost and outcome not in (SweepOutcome.RECORDED, SweepOutcome.GIVEN_BACK):
        return _ask_safely(contact, partial(_give_up, contact))
    return outcome


def _ask_safely(contact: CampaignContact, ask: Callable[[], SweepOutcome]) -> SweepOutcome:
    try:
        return ask()
    except (ProviderUnavailable, CallsError) as error:
        logger.warning("sweep batch=%s contact=%s outcome=unclear: %s", contact.batch_id, contact.pk, error)
    except Exception:
        # An unexpected error about one contact must not stop the others.
        logger.exception("sweep batch=%s contact=%s outcome=unclear", contact.batch_id, contact.pk)
    return SweepOutcome.UNCLEAR


def _find_call(contact: CampaignContact) -> SweepOutcome:
    attempt, since = contact.attempts or 0, cast(datetime, contact.last_attempt_at)
    batch = cast(CallBatch, contact.batch)
    if Call.link_stored_call(contact):
        return SweepOutcome.RECORDED
    find_unrecorded = partial(find_unrecorded_call, contact, attempt=attempt, agency_id=batch.agency_id)
    call_id = find_unrecorded()
    if call_id is None:
        call_id = get_provider(batch.agency_id).find(contact.pk, attempt, since=since)
    if call_id is None:
        # An event may have arrived while the provider was being asked.
        call_id = find_unrecorded()
    if call_id is not None:
        recorded = Call.record_placed(contact, call_id, caller_id=batch.from_number)
        outcome = SweepOutcome.RECORDED if recorded else SweepOutcome.UNCLEAR
    else:
        # An unclear answer counts as an attempt. A worker that died may not have sent the request at all.
        if contact.is_placement_unclear:
            ended = contact.record_rejected(reason=contact.outcome_notes or "")
        else:
            ended = contact.release_claim()
        outcome = SweepOutcome.GIVEN_BACK if ended else SweepOutcome.TOO_LATE
    logger.warning("sweep batch=%s contact=%s attempt=%s outcome=%s", batch.pk, contact.pk, attempt, outcome.value)
    return outcome


def _look_up_call(contact: CampaignContact, call: Call | None) -> SweepOutcome:
    if call is None:
        # Another service has deleted it.
        raise ProviderUnavailable("the call's row in calls is gone")
    if call.precedes_claim_of(contact):
        # Another service has claimed the contact again and left the id of the earlier call in it.
        return _find_call(contact)
    snapshot = get_provider(call.agency_id).look_up(call.ultravox_call_id)
    if snapshot is None:
        raise ProviderUnavailable(f"call={call.ultravox_call_id} is not known")
    if not snapshot.get("ended"):
        return SweepOutcome.IN_PROGRESS
    event = {"event": "call.ended", "call": {**snapshot, "callId": call.ultravox_call_id}}
    Call.record_event(WebhookEvent.from_body(call.agency, json.dumps(event).encode()))
    logger.info("sweep batch=%s contact=%s outcome=ended", contact.batch_id, contact.pk)
    return SweepOutcome.ENDED


def _give_up(contact: CampaignContact) -> SweepOutcome:
    """
    End a call that began a day ago, unless it has ended since the sweep read it.

    The contact may have talked to the agent, so it is not called again. The call's slot becomes free.
    """
    if contact.record_lost():
        logger.error("sweep batch=%s contact=%s outcome=ended: the call's end is unknown", contact.batch_id, contact.pk)
    return SweepOutcome.ENDED
