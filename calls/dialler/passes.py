"""The dialler: a pass over the batches that are due, one call, and the sweep for calls that nobody knows the end of."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import cast
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from calls.database.transactions import bounded, failing_as
from calls.exceptions import BatchNotFound, BatchReadFailed, BatchUpdateFailed, CallsError
from calls.models import Call, CallBatch, CampaignContact, WebhookEvent
from calls.providers import ultravox as dialer

logger = logging.getLogger(__name__)

# How many batches a pass dials, how many calls it places at once, and after how long it begins no further one.
BATCHES = 10
AT_ONCE = 8
PASS_SECONDS = 50.0
# How long it waits for calls_per_minute to let the next call begin.
LONGEST_WAIT = timedelta(seconds=5)
# How many contacts a sweep asks the provider about.
SWEPT = 500
# Longer than any call lasts.
LOST_AFTER = timedelta(days=1)


class Dialled(Enum):
    """What came of an attempt to place one call of a batch."""

    PLACED = "placed"
    FAILED = "failed"
    HELD = "held"
    """The provider takes no calls: the batch waits."""
    NOBODY = "nobody"
    """Nobody could be claimed."""


@dataclass(frozen=True)
class PassResult:
    """What a pass did. Calls that the provider does not take at the moment are in neither number."""

    batches_processed: int
    calls_initiated: int
    calls_failed: int


@dataclass(frozen=True)
class SweepResult:
    """
    What a sweep did with contacts whose call nobody knows the end of.

    ``recorded``: the provider had the call. ``given_back``: it did not. ``ended``: the call is over, or was given up.
    ``unclear``: the provider or the database could not say.
    """

    recorded: int = 0
    given_back: int = 0
    ended: int = 0
    unclear: int = 0


def begin_pass() -> Iterator[tuple[UUID, int]]:
    """
    Start what is due: batch by batch, at most 10, the oldest first, its id and how many calls it may begin now.

    :raises BatchReadFailed: the database could not say what is due.
    """
    with failing_as(BatchReadFailed), bounded():
        due = list(CallBatch.objects.due().oldest_first().only("agency_id", "status")[:BATCHES])
    for batch in due:
        try:
            yield batch.pk, batch.begin_pass()
        except CallsError as refusal:
            # Somebody else has it, or has deleted it: its turn comes with the next pass.
            logger.warning("dialler batch=%s outcome=%s", batch.pk, refusal.code)
        except Exception:
            # Nobody foresaw it: that is no reason for the other batches to wait.
            logger.exception("dialler batch=%s", batch.pk)


def dial(batch_id: UUID) -> Dialled:
    """
    Claim one contact of the batch, if it may be, and place its call. At most one request is sent.

    The claim is committed before, so that nobody is called twice, nor after the batch was cancelled. Not to be called
    inside a transaction.

    :raises BatchNotFound: the batch was deleted while somebody was being called.
    :raises BatchReadFailed: the database could not say what to dial; nobody was called.
    :raises BatchUpdateFailed: somebody may have been called and that could not be recorded; the sweep finds out.
    """
    provider = dialer.configured()
    with failing_as(BatchReadFailed), bounded():
        batch = CallBatch.objects.filter(pk=batch_id).select_related("agent_mapping").first()
    if batch is None:
        logger.error("dial batch=%s: the batch is gone, or its agent", batch_id)
        return Dialled.NOBODY
    began = time.monotonic()
    with failing_as(BatchUpdateFailed), transaction.atomic(durable=True):
        try:
            contact = CampaignContact.claim_next(batch)
        except BatchNotFound:
            contact = None
    if contact is None:
        return Dialled.NOBODY
    order = _order(batch, contact)
    if time.monotonic() - began > settings.ULTRAVOX_TIMEOUT:
        # This process was asleep, or its commit, and the sweep may be about to give the contact to somebody else.
        contact.give_back()
        return Dialled.NOBODY
    # Others may need it while the provider takes its time.
    connection.close()
    return _place(provider, order, contact)


def _place(provider: dialer.Dialer, order: dialer.Order, contact: CampaignContact) -> Dialled:
    try:
        call_id = provider.place(order)
    except dialer.ProviderBusy as busy:
        contact.give_back(hold=busy.pause)
        outcome, said = Dialled.HELD, f"{busy}, pause={busy.pause.total_seconds():.0f}"
    except dialer.PlacementRefused as refused:
        contact.refuse(reason=f"Not placed: {refused}")
        outcome, said = Dialled.FAILED, str(refused)
    except dialer.PlacementUnclear as unclear:
        contact.note(f"Unclear: {unclear}")
        outcome, said = Dialled.FAILED, f"unclear, {unclear}"
    else:
        recorded = Call.record(contact, call_id, caller_id=order.caller_id)
        outcome, said = Dialled.PLACED if recorded else Dialled.FAILED, call_id
    logger.log(
        logging.INFO if outcome is Dialled.PLACED else logging.WARNING,
        "dial batch=%s contact=%s attempt=%s outcome=%s call=%s",
        *(contact.batch_id, contact.pk, contact.attempts, outcome.value, said),
    )
    return outcome


def _order(batch: CallBatch, contact: CampaignContact) -> dialer.Order:
    custom = contact.custom_data if isinstance(contact.custom_data, dict) else {}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in custom.items()}
    return dialer.Order(
        agent_id=batch.agent_mapping.ultravox_agent_id,
        to=contact.phone_number,
        caller_id=batch.from_number,
        first_speaker_text=batch.agent_mapping.first_speaker_text,
        metadata=metadata
        | {"batch_id": str(batch.pk), "contact_id": str(contact.pk), "attempt": str(contact.attempts)},
    )


def run_pass() -> PassResult:
    """
    One pass: start what is due, and place as many calls as each batch has slots for.

    Any number of passes and workers at once are safe: limits hold across all of them.

    :raises BatchReadFailed: the database could not say what is due.
    """
    until = time.monotonic() + PASS_SECONDS
    outcomes: Counter[Dialled] = Counter()
    begun = list(begin_pass())
    # Others may need it while calls are placed.
    connection.close()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        # In turns, so that one large batch does not keep the others waiting.
        turns = [
            pk for turn in range(max((slots for _, slots in begun), default=0)) for pk, slots in begun if slots > turn
        ]
        held: set[UUID] = set()
        outcomes.update(threads.map(lambda batch_id: _turn(batch_id, until, held), turns))
    return PassResult(len(begun), outcomes[Dialled.PLACED], outcomes[Dialled.FAILED])


def _turn(batch_id: UUID, until: float, held: set[UUID]) -> Dialled:
    """One call of a batch, unless the provider has already said in this pass that it takes none of it."""
    try:
        while time.monotonic() < until and batch_id not in held:
            outcome = dial(batch_id)
            if outcome is Dialled.HELD:
                held.add(batch_id)
            wait = CallBatch(pk=batch_id).next_slot() if outcome is Dialled.NOBODY else None
            if wait is None or wait > LONGEST_WAIT:
                return outcome
            time.sleep(wait.total_seconds())
        return Dialled.NOBODY
    except CallsError as failed:
        logger.warning("dial batch=%s outcome=%s", batch_id, failed.code)
        return Dialled.NOBODY
    except Exception:
        # Nobody foresaw it: that is no reason for the other batches to wait.
        logger.exception("dial batch=%s", batch_id)
        return Dialled.FAILED
    finally:
        connection.close()


def sweep() -> SweepResult:
    """
    Find contacts whose call nobody knows the end of, and ask the provider.

    Of a call that was never recorded, since its worker died or the answer told nothing, it is recorded if the provider
    has it; only if it has not is the contact given back. Of one that nothing was heard of for long, the end is recorded
    if it has one. What has no end after a day is given up.

    :raises BatchReadFailed: the database could not say.
    """
    provider, until = dialer.configured(), time.monotonic() + PASS_SECONDS
    # Longer than a request can take: what was sent has arrived by then, or never will.
    sent_before = Now() - timedelta(seconds=4 * settings.ULTRAVOX_TIMEOUT)
    # A batch that is held for longer than a provider may ask for is another service's, but for calls of ours.
    ours = Exists(Call.objects.filter(pk=OuterRef("call_id"), metadata__has_key="attempt"))
    theirs = Q(batch__dial_after__gt=Now() + dialer.LONGEST_PAUSE) & ~ours
    under_way = CampaignContact.objects.under_way().exclude(theirs).order_by("?")
    with failing_as(BatchReadFailed), bounded():
        unknown = under_way.filter(call_id=None, last_attempt_at__lt=sent_before).select_related("batch")[:SWEPT]
        questions = [(contact, partial(_find, provider, contact)) for contact in unknown]
        silent = list(under_way.filter(call_id__isnull=False, last_attempt_at__lt=Now() - provider.silence)[:SWEPT])
        calls = Call.objects.select_related("agency").in_bulk([contact.call_id for contact in silent])
        questions += [(contact, partial(_look_up, provider, calls.get(contact.call_id))) for contact in silent]
    # In no order, so that those of whom the provider cannot tell do not keep the others from being asked about.
    random.shuffle(questions)
    # A provider that does not answer takes its time for each of them: the rest is for the next sweep.
    outcomes = Counter(_ask(contact, question) for contact, question in questions if time.monotonic() < until)
    return SweepResult(**{each.name: outcomes[each.name] for each in fields(SweepResult)})


def _ask(contact: CampaignContact, question: Callable[[], str]) -> str:
    outcome = _answer(contact, question)
    is_lost = cast(datetime, contact.last_attempt_at) < timezone.now() - LOST_AFTER
    if is_lost and outcome not in ("recorded", "given_back"):
        return _answer(contact, partial(_give_up, contact))
    return outcome


def _answer(contact: CampaignContact, question: Callable[[], str]) -> str:
    try:
        return question()
    except (dialer.ProviderSilent, CallsError) as error:
        logger.warning("sweep batch=%s contact=%s outcome=unclear: %s", contact.batch_id, contact.pk, error)
    except Exception:
        # Nobody foresaw it: that is no reason not to ask about the others.
        logger.exception("sweep batch=%s contact=%s outcome=unclear", contact.batch_id, contact.pk)
    return "unclear"


def _find(provider: dialer.Dialer, contact: CampaignContact) -> str:
    attempt, batch = contact.attempts or 0, cast(CallBatch, contact.batch)
    call_id = provider.find(contact.pk, attempt, since=cast(datetime, contact.last_attempt_at))
    if call_id is not None:
        outcome = "recorded" if Call.record(contact, call_id, caller_id=batch.from_number) else "unclear"
    else:
        # An answer that told nothing was an attempt all the same; a worker that died may not have made one.
        given_back = contact.refuse(reason=contact.outcome_notes) if contact.outcome_notes else contact.give_back()
        outcome = "given_back" if given_back else "too_late"
    logger.warning("sweep batch=%s contact=%s attempt=%s outcome=%s", batch.pk, contact.pk, attempt, outcome)
    return outcome


def _look_up(provider: dialer.Dialer, call: Call | None) -> str:
    if call is None:
        # Another service has deleted it.
        raise dialer.ProviderSilent("its call is not there any more")
    said = provider.look_up(call.ultravox_call_id)
    if said is None:
        raise dialer.ProviderSilent(f"call={call.ultravox_call_id} is not known")
    if not said.get("ended"):
        return "under_way"
    event = {"event": "call.ended", "call": {**said, "callId": call.ultravox_call_id}}
    Call.hear(WebhookEvent.of(call.agency, json.dumps(event).encode()))
    logger.info("sweep batch=%s contact=%s outcome=ended", call.batch_id, call.contact_id)
    return "ended"


def _give_up(contact: CampaignContact) -> str:
    """
    End a call that must be over, as it began a day ago, unless it has ended meanwhile.

    Whoever it was for may have been spoken to, and is not called again; nor is a slot held for them for ever.
    """
    if contact.lose():
        logger.error("sweep batch=%s contact=%s outcome=ended: its end is not known", contact.batch_id, contact.pk)
    return "ended"
