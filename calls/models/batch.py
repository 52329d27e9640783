"""A batch of calls, and the one way to cancel it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import OperationalError, connection, models, transaction
from django.db.models.functions import Coalesce
from psycopg.errors import DeadlockDetected

from calls import guards
from calls.actors import Actor, Door, history_context
from calls.db import as_update_failed, bounded, set_timeouts
from calls.exceptions import (
    BatchAlreadyCancelled,
    BatchAlreadyCompleted,
    BatchFinished,
    BatchNotFound,
    BatchUpdateFailed,
    CallsError,
)
from calls.models.agency import Agency
from calls.models.base import BaseModel, EnumTextField
from calls.models.campaign import AgentMapping, Campaign
from calls.querysets import CallBatchQuerySet
from calls.signals import batch_cancelled
from calls.statuses import FINAL, BatchStatus, ContactStatus

logger = logging.getLogger(__name__)

DEADLOCK_RETRIES = 3

REFUSAL: dict[str, type[BatchFinished]] = {
    BatchStatus.COMPLETED: BatchAlreadyCompleted,
    BatchStatus.CANCELLED: BatchAlreadyCancelled,
}


class Mode(models.TextChoices):
    IMMEDIATE = "immediate"
    SCHEDULED = "scheduled"


@dataclass(frozen=True)
class CancelResult:
    """
    What a cancel did, or would do.

    ``contacts_skipped`` is the row count of the UPDATE itself. ``in_progress`` is the batch's own counter of calls
    that were under way and go on until they end.
    """

    batch_id: UUID
    agency_id: UUID
    status: BatchStatus
    contacts_skipped: int
    in_progress: int


@dataclass(frozen=True)
class Discrepancy:
    """
    What a batch says otherwise than its contacts do.

    ``counters`` has each wrong counter with what it said and what a fresh count says. ``waiting`` is how many contacts
    were left to dial in a batch that has ended.
    """

    batch_id: UUID
    status: str
    counters: dict[str, tuple[int, int]]
    waiting: int


class CallBatch(BaseModel):
    """
    A list of people that an agency's voice agent calls over hours.

    The counters serve those who look; no decision is taken from one. ``queued`` counts the dialable contacts, so
    queued + in_progress + completed + failed + skipped = total_contacts. ``batch_final`` keeps every writer, also
    those outside this code, from reviving a batch that has ended.
    """

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="batches", db_index=False)
    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="batches", db_index=False)
    agent_mapping = models.ForeignKey(AgentMapping, on_delete=models.PROTECT, related_name="batches", db_index=False)
    from_number = models.TextField(help_text="E.164")
    status = EnumTextField(choices=BatchStatus, default=BatchStatus.PENDING, db_default=BatchStatus.PENDING)
    mode = EnumTextField(choices=Mode, default=Mode.IMMEDIATE, db_default=Mode.IMMEDIATE)
    calls_per_minute = models.IntegerField(default=30, db_default=30)
    max_concurrent = models.IntegerField(default=10, db_default=10)

    total_contacts = models.IntegerField(default=0, db_default=0)
    queued = models.IntegerField(default=0, db_default=0)
    in_progress = models.IntegerField(default=0, db_default=0)
    completed = models.IntegerField(default=0, db_default=0)
    failed = models.IntegerField(default=0, db_default=0)
    skipped = models.IntegerField(default=0, db_default=0)

    scheduled_for = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    paused_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    error_message = models.TextField(null=True, blank=True)

    objects = CallBatchQuerySet.as_manager()

    class Meta:
        db_table = "call_batches"
        verbose_name_plural = "call batches"
        # For staff in the admin. Whoever may change a batch may not thereby cancel one.
        permissions = [("cancel_callbatch", "Can cancel call batch")]
        constraints = [
            # For everybody: a status that no code knows could be neither dialled nor cancelled.
            models.CheckConstraint(name="batch_status_known", condition=models.Q(status__in=BatchStatus.values)),
            models.CheckConstraint(name="batch_mode_known", condition=models.Q(mode__in=Mode.values)),
        ]
        indexes = [
            # For the admin's list, newest first, and its drill-down by date.
            models.Index(name="batch_by_creation", fields=["-created_at", "-id"]),
        ]
        triggers = [guards.batch_final]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def has_ended(self) -> bool:
        """Whether this instance was completed or cancelled when it was read: for good, then. Decides nothing."""
        return self.status in FINAL

    def cancel(self, *, actor: Actor, via: Door) -> CancelResult:
        """
        Cancel the batch and skip every contact not yet called: all of it, or nothing.

        Once this has returned, no contact of the batch is claimed for a call by anyone. Calls in progress go on
        until they end. It cannot be undone. The row is read again under its lock, so neither this instance's
        fields nor anybody who races matter; the instance is not refreshed.

        Waits are bounded: each attempt waits at most 10 seconds for the batch's lock and ``CANCEL_TIMEOUT`` for the
        contacts. A cancel that is its own transaction and falls victim to a deadlock tries again, three times at
        most. Inside a caller's transaction it neither tries again nor is it final before that commits, and the
        timeouts stay in force until then.

        :param actor: who does it, kept in the history for good.
        :param via: the door they came through, kept likewise.
        :raises BatchAlreadyCancelled: it was cancelled before; its ``batch`` is the row under the lock.
        :raises BatchAlreadyCompleted: it has come to its end, likewise.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed. If the
            connection broke during COMMIT the outcome is unknown, and asking again tells it.
        """
        started = time.monotonic()

        def log(outcome: str, *, skipped: int = 0, in_progress: int = 0) -> None:
            logger.info(
                "cancel batch=%s agency=%s door=%s actor=%s:%s outcome=%s skipped=%d in_progress=%d ms=%.0f",
                *(self.pk, self.agency_id, via, actor.kind, actor.id, outcome, skipped, in_progress),
                (time.monotonic() - started) * 1000,
            )

        def committed() -> None:
            log("cancelled", skipped=result.contacts_skipped, in_progress=result.in_progress)
            batch_cancelled.send_robust(sender=CallBatch, result=result)

        try:
            with as_update_failed():
                result = self._retry_deadlocks(lambda: self._cancel(actor, via))
        except CallsError as refusal:
            log(refusal.code)
            raise
        transaction.on_commit(committed)
        return result

    def preview_cancel(self) -> CancelResult:
        """
        What :meth:`cancel` would do at this moment, refused in the same cases. Nothing is written or locked.

        :raises CallsError: as :meth:`cancel` does, in the same cases.
        """
        with as_update_failed(), bounded(statement=settings.CANCEL_TIMEOUT):
            batch = self._read_cancellable(CallBatch.objects.all())
            return batch._cancel_result(skipped=batch.contacts.dialable().count())

    def reconcile(self, *, fix: bool = False) -> Discrepancy | None:
        """
        Compare the counters with a fresh count of the contacts, under the lock; None if all is as it should be.

        With ``fix`` the counters are set to what was counted, and contacts left to dial in a batch that has ended,
        which nobody can claim, are skipped. Waits are bounded as those of :meth:`cancel` are.

        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        with as_update_failed(), bounded():
            batch = self._read(CallBatch.objects.select_for_update(of=("self",)))
            set_timeouts(statement=settings.CANCEL_TIMEOUT)
            stray = batch.contacts.dialable() if batch.has_ended else batch.contacts.none()
            waiting = stray.count()
            if fix and waiting:
                stray.update(
                    status=ContactStatus.SKIPPED, outcome_notes=f"Batch {batch.status}", updated_at=TransactionNow()
                )
            counted = batch.contacts.counters()
            said = {name: getattr(batch, name) or 0 for name in counted}
            wrong = {name: (said[name], count) for name, count in counted.items() if said[name] != count}
            if fix and wrong:
                CallBatch.objects.filter(pk=self.pk).update(**counted, updated_at=TransactionNow())
        return Discrepancy(batch.pk, batch.status, wrong, waiting) if wrong or waiting else None

    def _cancel(self, actor: Actor, via: Door) -> CancelResult:
        with bounded():
            # The batch first, then its contacts; and FOR UPDATE, since the weaker lock would let an INSERT whose
            # foreign key points here go through, and leave its contacts waiting in a cancelled batch.
            batch = self._read_cancellable(CallBatch.objects.select_for_update(of=("self",)))
            set_timeouts(statement=settings.CANCEL_TIMEOUT)
            skipped = batch.contacts.dialable().update(
                status=ContactStatus.SKIPPED, outcome_notes="Batch cancelled", updated_at=TransactionNow()
            )
            with history_context(actor=actor.as_dict(), via=str(via), contacts_skipped=skipped):
                cancelled = (
                    CallBatch.objects.filter(pk=self.pk)
                    .cancellable()
                    .update(
                        status=BatchStatus.CANCELLED,
                        queued=0,
                        skipped=Coalesce("skipped", 0) + skipped,
                        completed_at=TransactionNow(),
                        error_message="Cancelled by user",
                        updated_at=TransactionNow(),
                    )
                )
            if not cancelled:
                # Somebody else's trigger has swallowed it, for under the lock the batch is still cancellable.
                raise BatchUpdateFailed
            return batch._cancel_result(skipped=skipped)

    def _retry_deadlocks(self, attempt: Callable[[], CancelResult]) -> CancelResult:
        """Call ``attempt``, again if a deadlock chose it as the victim and no outer transaction is lost with it."""
        retries = 0 if connection.in_atomic_block else DEADLOCK_RETRIES
        while True:
            try:
                return attempt()
            except OperationalError as error:
                if not retries or not isinstance(error.__cause__, DeadlockDetected):
                    raise
                retries -= 1

    def _read(self, batches: models.QuerySet[CallBatch]) -> CallBatch:
        try:
            return batches.get(pk=self.pk)
        except CallBatch.DoesNotExist:
            raise BatchNotFound from None

    def _read_cancellable(self, batches: models.QuerySet[CallBatch]) -> CallBatch:
        # No more than is needed: what stands in another column cannot keep a batch from being cancelled.
        batch = self._read(batches.only("agency_id", "status", "in_progress", "completed_at"))
        if batch.has_ended:
            raise REFUSAL[batch.status](batch)
        return batch

    def _cancel_result(self, *, skipped: int) -> CancelResult:
        return CancelResult(
            batch_id=self.pk,
            agency_id=self.agency_id,
            status=BatchStatus.CANCELLED,
            contacts_skipped=skipped,
            in_progress=self.in_progress or 0,
        )
