"""A batch as the dialler sees it: when it starts, how many calls may begin, and when it is over."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.db.models.functions import Coalesce, Now

from calls.audit import Door, history_context
from calls.database.transactions import bounded, failing_as, retrying_deadlocks
from calls.exceptions import BatchReadFailed, BatchUpdateFailed
from calls.models.querysets import CampaignContactQuerySet
from calls.statuses import STARTABLE, BatchStatus, ContactStatus

if TYPE_CHECKING:
    from calls.models.batch import CallBatch

logger = logging.getLogger(__name__)

A_MINUTE = timedelta(minutes=1)
# How many contacts are moved to the queue under one lock: a cancel waits no longer than that takes.
CHUNK = 10_000
# Likewise, how many have their turn once more: as many as a batch may call in a quarter of an hour.
BROUGHT_BACK = 1_000


class Dialling(models.Model):
    """What a batch does while it is dialled. Everything is decided under its lock, from the contacts themselves."""

    class Meta:
        abstract = True

    if TYPE_CHECKING:
        id: UUID
        agency_id: UUID
        status: str
        started_at: datetime | None
        calls_per_minute: int | None
        max_concurrent: int | None
        is_ahead: bool | None
        is_held: bool | None
        contacts: CampaignContactQuerySet

        def locked(self, *columns: str) -> AbstractContextManager[CallBatch]: ...

    def begin_pass(self) -> int:
        """
        Start the batch if its time has come, and say how many slots it has for which there is somebody to call.

        From then on it is ``processing``, and its pending contacts are queued. 0 for a batch that is not due. Whether a
        call may begin is decided when somebody is claimed.

        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; the next pass does what is left.
        """
        with failing_as(BatchUpdateFailed):
            queues, slots = retrying_deadlocks(self._begin)
            if queues:
                retrying_deadlocks(self._queue_pending)
            return slots

    def _begin(self) -> tuple[bool, int]:
        with self.locked("started_at", "calls_per_minute", "max_concurrent") as batch:
            if batch.status not in STARTABLE or batch.is_ahead or batch.is_held:
                return False, 0
            goes_on = batch.status == BatchStatus.PROCESSING
            # One that was resumed after its time is processing, and has not been started.
            starts = not goes_on or batch.started_at is None
            if starts:
                batch._move_to(BatchStatus.PROCESSING, started_at=Coalesce("started_at", TransactionNow()))
            if goes_on:
                batch.complete_if_over()
                if batch.has_ended:
                    return False, 0
                batch._bring_back()
            in_turn = list(batch.contacts.claimable().in_turn().values_list("status", flat=True)[: batch._slots])
            # Pending ones came from another service, or a pass before has not got to them.
            return starts or ContactStatus.PENDING in in_turn, len(in_turn)

    def _queue_pending(self) -> None:
        """
        In chunks, each under the lock, and no longer than the batch is being dialled.

        Whom another service has locked is passed over: a claim takes pending contacts as well.
        """
        pending = self.contacts.filter(status=ContactStatus.PENDING)
        done = None
        while True:
            with self.locked() as batch:
                if batch.status != BatchStatus.PROCESSING:
                    return
                left = pending.after(done) if done else pending
                done = left.exclude(created_at__isnull=True).oldest_first()[CHUNK - 1 : CHUNK].first()
                chunk = left.up_to(done) if done else left | pending.filter(created_at__isnull=True)
                free = chunk.select_for_update(of=("self",), skip_locked=True)
                self.contacts.filter(pk__in=free).update(status=ContactStatus.QUEUED, updated_at=TransactionNow())
                if done is None:
                    return

    def may_begin(self) -> bool:
        """
        Whether one more call may be begun now, of a batch that is locked.

        ``max_concurrent`` is for the calls under way, ``calls_per_minute`` for those that began in any 60 seconds.
        """
        return self._slots > 0 and self._attempted_lately().count() < self._limits[0]

    @property
    def _slots(self) -> int:
        per_minute, at_once = self._limits
        return max(0, min(per_minute, at_once - self._under_way().count()))

    def next_slot(self) -> timedelta | None:
        """
        How long until ``calls_per_minute`` lets the next call begin; None if that is not what it waits for.

        :raises BatchReadFailed: the database could not say.
        """
        with failing_as(BatchReadFailed), bounded():
            batch = type(self).objects.due().filter(pk=self.pk, status=BatchStatus.PROCESSING).first()  # type: ignore[attr-defined]
            if batch is None:
                return None
            per_minute, at_once = batch._limits
            if batch._under_way().count() >= at_once or not batch.contacts.claimable().in_turn()[:1].count():
                return None
            lately = batch._attempted_lately()
            if not 0 < per_minute <= lately.count():
                return None
            ends = models.Min("last_attempt_at") + A_MINUTE - Now()
            left = lately.aggregate(left=models.ExpressionWrapper(ends, models.DurationField()))["left"]
            return max(left or timedelta(0), timedelta(0))

    def complete_if_over(self) -> None:
        """Complete a batch that is locked, processing, and has nobody left to call or being called."""
        if self.status != BatchStatus.PROCESSING or self._under_way().exists():
            return
        left = self.contacts.not_over()
        # Whoever is in turn says at once that it is not over; that it is, only a look at all of them. Not by exists(),
        # which would drop the order.
        if not left.in_turn()[:1].count() and not left.exists():
            self._move_to(BatchStatus.COMPLETED, completed_at=TransactionNow())

    def _bring_back(self) -> None:
        """If nobody else waits, those have their turn whom another service has queued again with a ``completed_at``."""
        waiting = self.contacts.dialable()
        if not waiting.in_turn()[:1].count():
            passed_over = waiting.exclude(completed_at=None).select_for_update(of=("self",), skip_locked=True)
            self.contacts.filter(pk__in=list(passed_over.values_list("pk", flat=True)[:BROUGHT_BACK])).update(
                completed_at=None, updated_at=TransactionNow()
            )

    def _under_way(self) -> CampaignContactQuerySet:
        return self.contacts.model.objects.under_way(self.pk)

    def _attempted_lately(self) -> CampaignContactQuerySet:
        return self.contacts.model.objects.attempted_within(A_MINUTE, self.pk)

    @property
    def _limits(self) -> tuple[int, int]:
        """Calls a minute, and at once; another service may have left them empty."""
        per_minute = 30 if self.calls_per_minute is None else self.calls_per_minute
        return per_minute, 10 if self.max_concurrent is None else self.max_concurrent

    def _move_to(self, status: BatchStatus, **times: Any) -> None:
        with history_context(via=str(Door.DIALLER)):
            type(self).objects.filter(pk=self.pk, status=self.status).update(  # type: ignore[attr-defined]
                status=status, updated_at=TransactionNow(), **times
            )
        self.status = status
        logger.info("dialler batch=%s agency=%s outcome=%s", self.pk, self.agency_id, status)
