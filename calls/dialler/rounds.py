"""Rounds of the dialler: which batches to dial next, and how many calls of each."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, cast
from uuid import UUID

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.dialler.waiting import (
    DiallingState,
    Waiting,
    WaitReason,
    due_batches,
    free_slots,
    has_nothing_to_call,
    needs_start,
    waiting_for,
)
from calls.exceptions import BatchReadFailed
from calls.models import CallBatch

logger = logging.getLogger(__name__)

# The calls of one round. While the workers are busy, a batch that becomes due waits until the round is over.
CALLS_PER_ROUND = 200
# Timeout of the query that reads all due batches, in seconds. It takes a tenth of a second for 1,000 of them.
READ_TIMEOUT = 60.0

# What each due batch waited for when this process last logged it.
_logged: dict[UUID, WaitReason] = {}
# When each due batch had its latest turn in this process.
_turns: dict[UUID, datetime] = {}
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Turn:
    """
    One batch of a round: the calls to place, and whether to start the batch first.

    ``places`` has the place of each call among the calls of its agency in this round, from 0 on.
    """

    batch_id: UUID
    agency_id: UUID
    places: list[int]
    start: bool

    @property
    def calls(self) -> int:
        """The number of calls to place."""
        return len(self.places)

    @property
    def batch(self) -> CallBatch:
        """The batch with its two ids alone."""
        return CallBatch(pk=self.batch_id, agency_id=self.agency_id)


@dataclass(frozen=True)
class Round:
    """
    What to dial next.

    ``read_at`` is the time of the database at which the due batches were read, or None if no batch is due.
    """

    turns: list[Turn]
    read_at: datetime | None
    waits_for_rate: bool
    """Whether ``calls_per_minute`` delays a call."""

    @property
    def is_full(self) -> bool:
        """Whether more calls might start now than the round has."""
        return sum(turn.calls for turn in self.turns) >= CALLS_PER_ROUND


@dataclass(frozen=True)
class _Candidate:
    """A due batch, and how many of its calls may start now. ``agency_slots`` is how many its agency may start."""

    batch: CallBatch
    waiting: Waiting | None
    start: bool
    slots: int
    agency_slots: float

    @classmethod
    def from_batch(cls, batch: CallBatch, *, include_empty: bool) -> Self:
        state, waiting = DiallingState.from_batch(batch), waiting_for(batch)
        is_blocked = waiting is not None and waiting.reason.is_obstacle
        is_empty = has_nothing_to_call(state)
        has_call = waiting is None and not is_empty
        # A batch that cannot start calls may still be completed, unless its agency is on hold or another dialler owns
        # it.
        may_complete = waiting is None or waiting.reason not in (WaitReason.HELD, WaitReason.OTHER_DIALLER)
        start = (not is_blocked and needs_start(batch, state)) or (include_empty and is_empty and may_complete)
        limit = math.inf if state.agency_limit is None else state.agency_limit - state.agency_in_progress
        slots = free_slots(batch, state)
        if not has_call:
            # A start may find a contact that can be called.
            slots = min(slots, 1) if start and not is_blocked else 0
        return cls(batch, waiting, start, slots, limit)


def next_round(*, include_empty: bool, skip: Collection[UUID] = (), called_before: datetime | None = None) -> Round:
    """
    Return the batches that can place a call now. Agencies take turns, and so do the batches of an agency.

    The agency that has waited longest since its latest call or turn comes first. The same order applies to the batches
    of an agency. What the other due batches wait for is logged when it changes.

    :param include_empty: also return batches without a contact to call: they may be finished.
    :param skip: batches to leave out: they have a job already, or none of their contacts could be claimed before.
    :param called_before: leave out contacts that were called since then.
    :raises BatchReadFailed: a database error or timeout.
    """
    with database_errors_as(BatchReadFailed), transaction_with_timeouts(statement=READ_TIMEOUT):
        batches = list(due_batches(called_before=called_before))
    # A batch that had a turn and placed no call, perhaps because its contacts are locked, goes behind the others too.
    batches.sort(key=_latest_turn)
    due = [_Candidate.from_batch(batch, include_empty=include_empty) for batch in batches]
    _log_changes(due)
    places = _take_turns(due, skip)
    turns = [
        Turn(each.batch.pk, each.batch.agency_id, of_batch, each.start)
        for each in due
        for of_batch in [places.get(each.batch.pk, [])]
        if each.batch.pk not in skip and (of_batch or each.start)
    ]
    # In the order of the first calls. Batches that only have to be started come last.
    order = {batch_id: position for position, batch_id in enumerate(places)}
    turns.sort(key=lambda turn: order.get(turn.batch_id, len(order)))
    read_at = DiallingState.from_batch(due[0].batch).now if due else None
    if read_at is not None:
        _turns.update(dict.fromkeys((turn.batch_id for turn in turns[:CALLS_PER_ROUND]), read_at))
    return Round(
        turns[:CALLS_PER_ROUND],
        read_at=read_at,
        waits_for_rate=any(each.waiting and each.waiting.reason is WaitReason.RATE for each in due),
    )


def _latest_turn(batch: CallBatch) -> datetime:
    latest_call = cast(Any, batch).latest_call
    return max(time for time in (latest_call, _turns.get(batch.pk), NEVER) if time is not None)


def _take_turns(due: Iterable[_Candidate], skip: Collection[UUID]) -> dict[UUID, list[int]]:
    """
    Return the places of the calls of each batch, in the order of their first calls.

    :param due: the due batches in the order of their latest calls, with those that wait.
    """
    latest: dict[UUID, int] = {}
    queues: dict[UUID, deque[_Candidate]] = {}
    free: dict[UUID, float] = {}
    for position, each in enumerate(due):
        latest[each.batch.agency_id] = position
        free[each.batch.agency_id] = each.agency_slots
        if each.slots and each.batch.pk not in skip:
            queues.setdefault(each.batch.agency_id, deque()).append(each)
    places: dict[UUID, list[int]] = {}
    agencies = deque((agency, 0) for agency in sorted(queues, key=lambda agency: latest[agency]))
    for _ in range(CALLS_PER_ROUND):
        if not agencies:
            break
        agency, place = agencies.popleft()
        candidate = queues[agency].popleft()
        of_batch = places.setdefault(candidate.batch.pk, [])
        of_batch.append(place)
        if len(of_batch) < candidate.slots:
            queues[agency].append(candidate)
        if queues[agency] and place + 1 < free[agency]:
            agencies.append((agency, place + 1))
    return places


def _log_changes(due: list[_Candidate]) -> None:
    """Log what each batch waits for, unless this process has already logged the same reason for it."""
    for each in due:
        batch, waiting = each.batch, each.waiting
        if waiting is not None and _logged.get(batch.pk) is not waiting.reason:
            _logged[batch.pk] = waiting.reason
            logger.info("dialler batch=%s agency=%s outcome=waiting: %s", batch.pk, batch.agency_id, waiting)
    is_due = {each.batch.pk for each in due}
    for known in (_logged, _turns):
        for ended in known.keys() - is_due:
            del known[ended]
