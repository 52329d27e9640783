"""A batch of calls: how it is made, stopped for a while, and stopped for good."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import DataError, IntegrityError, models, transaction
from django.db.models.functions import Coalesce

from calls.audit import Actor, Door, history_context
from calls.database import triggers as guards
from calls.database.transactions import bounded, failing_as, retrying_deadlocks, set_timeouts
from calls.exceptions import (
    AgentMappingNotFound,
    BatchAlreadyCancelled,
    BatchAlreadyCompleted,
    BatchCreateFailed,
    BatchFinished,
    BatchNotFound,
    BatchNotPausable,
    BatchNotPaused,
    BatchUpdateFailed,
    CallsError,
    CampaignNotFound,
    FieldInvalid,
)
from calls.inputs import NewBatch, NewContact
from calls.models.agency import Agency
from calls.models.base import BaseModel, EnumTextField
from calls.models.campaign import AgencyPhoneNumber, AgentMapping, Campaign
from calls.models.dialling import Dialling
from calls.models.querysets import CallBatchQuerySet
from calls.models.results import CancelResult, CreateResult, Discrepancy, PauseResult
from calls.signals import batch_cancelled
from calls.statuses import FINAL, PAUSABLE, BatchStatus, ContactStatus, Mode

logger = logging.getLogger(__name__)

COUNTERS = ("total_contacts", "queued", "in_progress", "completed", "failed", "skipped")
# What is read of a row under its lock: no more than is needed, so that what stands in another column cannot keep a
# batch from being stopped.
_CANCELLED = ("in_progress", "completed_at")
_GIVEN = {"from_number", "mode", "calls_per_minute", "max_concurrent", "scheduled_for"}
_PLANNED = ("queued", "in_progress", "completed_at")

Result = TypeVar("Result", CancelResult, PauseResult)

REFUSAL: dict[str, type[BatchFinished]] = {
    BatchStatus.COMPLETED: BatchAlreadyCompleted,
    BatchStatus.CANCELLED: BatchAlreadyCancelled,
}


class CallBatch(Dialling, BaseModel):
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
    # The provider has asked to wait until then.
    dial_after = models.DateTimeField(null=True, blank=True)

    objects = CallBatchQuerySet.as_manager()

    # By the database's clock, where the row was read in order to change it.
    now: datetime
    is_ahead: bool | None
    is_held: bool | None

    class Meta:
        db_table = "call_batches"
        verbose_name_plural = "call batches"
        # For staff in the admin. Whoever may change a batch may not thereby stop one or let it go on.
        permissions = [(f"{verb}_callbatch", f"Can {verb} call batch") for verb in ("cancel", "pause", "resume")]
        constraints = [
            # For everybody: a status that no code knows could be neither dialled nor cancelled.
            models.CheckConstraint(name="batch_status_known", condition=models.Q(status__in=BatchStatus.values)),
            models.CheckConstraint(name="batch_mode_known", condition=models.Q(mode__in=Mode.values)),
        ]
        indexes = [
            # For the admin's list, newest first, and its drill-down by date.
            models.Index(name="batch_by_creation", fields=["-created_at", "-id"]),
            # For an agency's own list, newest first.
            models.Index(name="batch_of_agency", fields=["agency", "-created_at", "-id"]),
        ]
        triggers = [guards.batch_final]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def has_ended(self) -> bool:
        """Whether this instance was completed or cancelled when it was read: for good, then. Decides nothing."""
        return self.status in FINAL

    @property
    def progress_percentage(self) -> float:
        """How much of the batch is over and done with, in percent, by its counters; one decimal."""
        total = self.total_contacts or 0
        return round((total - self.remaining_count) * 100 / total, 1) if total > 0 else 0.0

    @property
    def remaining_count(self) -> int:
        """How many contacts are not over and done with, by the counters."""
        return (self.total_contacts or 0) - sum(counter or 0 for counter in (self.completed, self.failed, self.skipped))

    @classmethod
    def create(cls, new: NewBatch, *, agency_id: UUID, actor: Actor, via: Door) -> CreateResult:
        """
        Make a batch of an agency with its contacts: all of it, or nothing.

        It is ``scheduled`` where its time is ahead, else ``pending``, to be dialled now. Of several contacts with one
        number the first counts.

        :raises AgentMappingNotFound: the agency has no such agent.
        :raises CampaignNotFound: the agency has no such campaign.
        :raises FieldInvalid: the number to call from is not an active one, or the table refuses a contact.
        :raises BatchCreateFailed: the database refused, failed or took too long; nothing was stored.
        """
        started = time.monotonic()
        with failing_as(BatchCreateFailed), bounded():
            agent = AgentMapping.objects.filter(agency=agency_id, pk=new.agent_mapping_id).first()
            if agent is None:
                raise AgentMappingNotFound
            if not Campaign.objects.filter(agency=agency_id, pk=new.campaign_id).exists():
                raise CampaignNotFound
            if not AgencyPhoneNumber.objects.is_active(agency_id, new.from_number):
                raise FieldInvalid("from_number", "must be an active phone number of the agency")
            with history_context(actor=actor.as_dict(), via=str(via)):
                batch = cls.objects.create(
                    agency_id=agency_id,
                    campaign_id=new.campaign_id,
                    agent_mapping=agent,
                    status=BatchStatus.SCHEDULED if new.is_ahead else BatchStatus.PENDING,
                    **new.model_dump(include=_GIVEN),
                )
            distinct = new.distinct_contacts
            try:
                batch.add_contacts(distinct)
            except BatchUpdateFailed as failed:
                # Another service's table may be stricter than ours, in the length of a text, say.
                if isinstance(failed.__cause__, DataError | IntegrityError):
                    raise FieldInvalid("contacts", "have a value that a constraint of the table refuses") from failed
                raise
            batch.total_contacts = len(distinct)
        transaction.on_commit(lambda: batch._log("create", actor, via, started, batch.status, contacts=len(distinct)))
        return CreateResult(batch, duplicates_removed=len(new.contacts) - len(distinct))

    def add_contacts(self, contacts: Sequence[NewContact]) -> None:
        """
        Add contacts, to be called after those that are there: all of them, or none.

        The one way by which contacts enter a batch. It waits for a cancel that is under way, and is then refused.

        :raises BatchAlreadyCancelled: the batch was cancelled; nobody can be added any more.
        :raises BatchAlreadyCompleted: it has come to its end, likewise.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        with failing_as(BatchUpdateFailed), self.locked("campaign_id") as batch:
            batch._refuse_if_ended()
            batch.contacts.copy(batch, contacts)
            batch.count(total_contacts=len(contacts), queued=len(contacts))

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
        result = self._perform("cancel", actor, via, lambda: self._cancel(actor, via))
        transaction.on_commit(lambda: batch_cancelled.send_robust(sender=CallBatch, result=result))
        return result

    def preview_cancel(self) -> CancelResult:
        """
        What :meth:`cancel` would do at this moment, refused in the same cases. Nothing is written or locked.

        :raises CallsError: as :meth:`cancel` does, in the same cases.
        """
        with failing_as(BatchUpdateFailed), bounded(statement=settings.CANCEL_TIMEOUT):
            batch = self._read(CallBatch.objects.all(), *_CANCELLED)
            batch._refuse_if_ended()
            return CancelResult.of(batch, contacts_skipped=batch.contacts.dialable().count())

    def pause(self, *, actor: Actor, via: Door) -> PauseResult:
        """
        Claim no further contact until the batch is resumed. Calls in progress go on until they end.

        Holds exactly for what claims with ``CampaignContact.claim_next()``. Another service may still commit a claim in
        a transaction that began before; in one that begins later the database refuses it.

        :raises BatchNotPausable: it is neither processing nor scheduled; its ``batch`` is the row under the lock.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        return self._perform("pause", actor, via, lambda: self._write_plan(CallBatch._plan_pause, actor, via))

    def preview_pause(self) -> PauseResult:
        """
        What :meth:`pause` would do at this moment, refused in the same cases. Nothing is written or locked.

        :raises CallsError: as :meth:`pause` does, in the same cases.
        """
        with failing_as(BatchUpdateFailed), bounded():
            return self._read(CallBatch.objects.all(), *_PLANNED)._plan_pause()

    def resume(self, *, actor: Actor, via: Door) -> PauseResult:
        """
        Let a paused batch go on: it is ``scheduled`` again while its time is ahead, else ``processing``.

        :raises BatchNotPaused: it is not paused; its ``batch`` is the row under the lock.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        return self._perform("resume", actor, via, lambda: self._write_plan(CallBatch._plan_resume, actor, via))

    def preview_resume(self) -> PauseResult:
        """
        What :meth:`resume` would do at this moment, refused in the same cases. Nothing is written or locked.

        :raises CallsError: as :meth:`resume` does, in the same cases.
        """
        with failing_as(BatchUpdateFailed), bounded():
            return self._read(CallBatch.objects.all(), *_PLANNED)._plan_resume()

    def reconcile(self, *, fix: bool = False) -> Discrepancy | None:
        """
        Compare the counters with a fresh count of the contacts, under the lock; None if all is as it should be.

        With ``fix`` the counters are set to what was counted, and contacts left to dial in a batch that has ended,
        which nobody can claim, are skipped. Waits are bounded as those of :meth:`cancel` are.

        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        with failing_as(BatchUpdateFailed), self.locked(*COUNTERS) as batch:
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

    @contextmanager
    def locked(self, *columns: str) -> Iterator[CallBatch]:
        """
        The row as it is now, under its lock, in a transaction whose waits are bounded.

        Whoever changes a batch's status, adds contacts, claims one or records an outcome begins here: the batch first,
        then its contacts. Besides ``columns`` it has ``agency_id`` and ``status``.

        :raises BatchNotFound: the row is gone.
        """
        with bounded():
            # FOR UPDATE, since the weaker lock would let an INSERT whose foreign key points here go through, and leave
            # its contacts waiting in a cancelled batch.
            batch = self._read(CallBatch.objects.select_for_update(of=("self",)), *columns)
            set_timeouts(statement=settings.CANCEL_TIMEOUT)
            yield batch

    def count(self, **changes: int) -> None:
        """Add ``changes`` to the counters, under the lock that moved the contacts."""
        CallBatch.objects.filter(pk=self.pk).update(
            **{counter: Coalesce(counter, 0) + change for counter, change in changes.items()},
            updated_at=TransactionNow(),
        )

    def _cancel(self, actor: Actor, via: Door) -> CancelResult:
        with self.locked(*_CANCELLED) as batch:
            batch._refuse_if_ended()
            skipped = batch.contacts.dialable().update(
                status=ContactStatus.SKIPPED, outcome_notes="Batch cancelled", updated_at=TransactionNow()
            )
            with history_context(actor=actor.as_dict(), via=str(via), contacts_skipped=skipped):
                cancelled = (
                    CallBatch.objects.cancellable()
                    .filter(pk=self.pk)
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
            return CancelResult.of(batch, contacts_skipped=skipped)

    def _write_plan(self, plan: Callable[[CallBatch], PauseResult], actor: Actor, via: Door) -> PauseResult:
        with self.locked(*_PLANNED) as batch:
            planned = plan(batch)
            with history_context(actor=actor.as_dict(), via=str(via)):
                written = CallBatch.objects.filter(pk=self.pk, status=batch.status).update(
                    status=planned.status, paused_at=planned.paused_at, updated_at=TransactionNow()
                )
            if not written:
                raise BatchUpdateFailed
            return planned

    def _plan_pause(self) -> PauseResult:
        if self.status not in PAUSABLE:
            raise BatchNotPausable(self)
        return PauseResult.of(self, BatchStatus.PAUSED, paused_at=self.now)

    def _plan_resume(self) -> PauseResult:
        if self.status != BatchStatus.PAUSED:
            raise BatchNotPaused(self)
        status = BatchStatus.SCHEDULED if self.is_ahead else BatchStatus.PROCESSING
        return PauseResult.of(self, status, paused_at=None)

    def _perform(self, verb: str, actor: Actor, via: Door, work: Callable[[], Result]) -> Result:
        """Do it, and say in the log who asked for it and what came of it: once it is committed, or refused."""
        started = time.monotonic()
        try:
            with failing_as(BatchUpdateFailed):
                result = retrying_deadlocks(work)
        except CallsError as refusal:
            self._log(verb, actor, via, started, refusal.code)
            raise
        transaction.on_commit(lambda: self._log(verb, actor, via, started, result.status, **result.numbers))
        return result

    def _log(self, verb: str, actor: Actor, via: Door, started: float, outcome: str, **numbers: int) -> None:
        logger.info(
            "%s batch=%s agency=%s door=%s actor=%s:%s outcome=%s%s ms=%.0f",
            *(verb, self.pk, self.agency_id, via, actor.kind, actor.id, outcome),
            "".join(f" {name}={number}" for name, number in numbers.items()),
            (time.monotonic() - started) * 1000,
        )

    def _read(self, batches: models.QuerySet[CallBatch], *columns: str) -> CallBatch:
        now = TransactionNow()
        clock = {"now": now, "is_ahead": models.Q(scheduled_for__gt=now), "is_held": models.Q(dial_after__gt=now)}
        try:
            return batches.only("agency_id", "status", *columns).annotate(**clock).get(pk=self.pk)
        except CallBatch.DoesNotExist:
            raise BatchNotFound from None

    def _refuse_if_ended(self) -> None:
        if self.has_ended:
            raise REFUSAL[self.status](self)
