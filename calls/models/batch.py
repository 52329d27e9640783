"""Call batches: create, pause, resume and cancel."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import DataError, IntegrityError, models, transaction
from django.db.models.functions import Coalesce

from calls.audit import Actor, Source, audited, history_context, log_verb
from calls.database.transactions import (
    database_errors_as,
    retry_on_deadlock,
    transaction_with_timeouts,
)
from calls.database.triggers import batch_final
from calls.exceptions import (
    AgentMappingNotFound,
    BatchAlreadyCancelled,
    BatchAlreadyCompleted,
    BatchCreateFailed,
    BatchNotPausable,
    BatchNotPaused,
    BatchRefused,
    BatchUpdateFailed,
    CampaignNotFound,
    FieldInvalid,
)
from calls.inputs import NewBatch, NewContact
from calls.models.agency import Agency
from calls.models.campaign import AgencyPhoneNumber, AgentMapping, Campaign
from calls.models.fields import EnumTextField
from calls.models.locking import CLOCK, PAUSED_BY_DIALLER, LockableBatch
from calls.models.querysets import CallBatchQuerySet
from calls.models.results import CancelResult, CreateResult, PauseResult, displayed
from calls.signals import batch_cancelled
from calls.statuses import PAUSABLE, STARTABLE, BatchStatus, ContactStatus, Mode, skip_note

logger = logging.getLogger(__name__)

# Each verb reads only these columns under the lock, so an unreadable value in another column cannot prevent a cancel.
_CANCEL_COLUMNS = ("in_progress", "completed_at")
_PAUSE_COLUMNS = ("queued", "in_progress", "completed_at")

# The batch's error_message, or NULL if the dialler wrote it when it paused the batch.
_ERROR_MESSAGE_AFTER_RESUME = models.Case(
    models.When(error_message__startswith=PAUSED_BY_DIALLER, then=None), default="error_message"
)


class CallBatch(LockableBatch):
    """
    A list of contacts that an agency's voice agent calls over hours.

    The counters are for display only; no decision depends on them. ``queued`` counts the dialable contacts, so
    queued + in_progress + completed + failed + skipped = total_contacts. The trigger ``batch_final`` keeps every
    writer, including other services, from reviving a batch that has ended.
    """

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="batches", db_index=False)
    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="batches", db_index=False)
    agent_mapping = models.ForeignKey(AgentMapping, on_delete=models.PROTECT, related_name="batches", db_index=False)
    from_number = models.TextField(help_text="E.164")
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
    # No call starts before this time. Another dialler sets it to keep the batch for itself.
    dial_after = models.DateTimeField(null=True, blank=True)

    objects = CallBatchQuerySet.as_manager()

    class Meta:
        db_table = "call_batches"
        verbose_name_plural = "call batches"
        # For staff in the admin. Django's "change" permission does not imply any of these.
        permissions = [(f"{verb}_callbatch", f"Can {verb} call batch") for verb in ("cancel", "pause", "resume")]
        constraints = [
            # For all writers: a batch in an unknown status would never be dialled.
            models.CheckConstraint(name="batch_status_known", condition=models.Q(status__in=BatchStatus.values)),
            models.CheckConstraint(name="batch_mode_known", condition=models.Q(mode__in=Mode.values)),
        ]
        indexes = [
            # For the admin's list, newest first, and its drill-down by date.
            models.Index(name="batch_by_creation", fields=["-created_at", "-id"]),
            # For an agency's own list, newest first.
            models.Index(name="batch_of_agency", fields=["agency", "-created_at", "-id"]),
            # For the dialler, which reads the batches to dial, however many have ended.
            models.Index(name="batch_to_dial", fields=["agency"], condition=models.Q(status__in=STARTABLE)),
        ]
        triggers = [batch_final]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def progress_percentage(self) -> float:
        """The share of contacts that are completed, failed or skipped, in percent with one decimal."""
        total = self.total_contacts or 0
        return round((total - self.remaining_count) * 100 / total, 1) if total > 0 else 0.0

    @property
    def remaining_count(self) -> int:
        """The number of contacts that are not completed, failed or skipped, by the counters."""
        return (self.total_contacts or 0) - sum(counter or 0 for counter in (self.completed, self.failed, self.skipped))

    @property
    def pause_reason(self) -> str | None:
        """Why a paused batch was paused, if the dialler or another service has said so."""
        return self.error_message if self.status == BatchStatus.PAUSED else None

    @classmethod
    def create(cls, new: NewBatch, *, agency_id: UUID, actor: Actor, source: Source) -> CreateResult:
        """
        Create a batch with its contacts, all or nothing.

        The batch is ``scheduled`` when its start time is in the future, else ``pending``, which is dialled at once.
        When several contacts have the same number, the first one is kept.

        :raises AgentMappingNotFound: the agency has no such agent.
        :raises CampaignNotFound: the agency has no such campaign.
        :raises FieldInvalid: the caller id is not active, or a constraint of the table rejects a contact.
        :raises BatchCreateFailed: a database error or timeout; nothing was stored.
        """
        started = time.monotonic()
        with database_errors_as(BatchCreateFailed), transaction_with_timeouts():
            agent = AgentMapping.objects.filter(agency=agency_id, pk=new.agent_mapping_id).first()
            if agent is None:
                raise AgentMappingNotFound
            if not Campaign.objects.filter(agency=agency_id, pk=new.campaign_id).exists():
                raise CampaignNotFound
            if not AgencyPhoneNumber.objects.is_active(agency_id, new.from_number):
                raise FieldInvalid("from_number", "must be an active phone number of the agency")
            with history_context(actor=actor, source=source):
                batch = cls.objects.create(
                    agency_id=agency_id,
                    campaign_id=new.campaign_id,
                    agent_mapping=agent,
                    status=BatchStatus.SCHEDULED if new.starts_in_future else BatchStatus.PENDING,
                    **new.batch_fields,
                )
            distinct = new.distinct_contacts
            try:
                batch.add_contacts(distinct)
            except BatchUpdateFailed as failed:
                # An adopted table may be stricter than ours, for example about the length of a text.
                if isinstance(failed.__cause__, DataError | IntegrityError):
                    raise FieldInvalid("contacts", "have a value that a constraint of the table refuses") from failed
                raise
            batch.total_contacts = len(distinct)

        log = partial(log_verb, "create", batch, actor=actor, source=source, started=started)
        transaction.on_commit(partial(log, outcome=batch.status, contacts=len(distinct)))
        return CreateResult(batch, duplicates_removed=len(new.contacts) - len(distinct))

    @database_errors_as(BatchUpdateFailed)
    def add_contacts(self, contacts: Sequence[NewContact]) -> None:
        """
        Add contacts after the existing ones, all or nothing.

        The only way to add contacts to a batch. It waits for a cancel in progress and is then refused.

        :raises BatchAlreadyCancelled: the batch was cancelled.
        :raises BatchAlreadyCompleted: the batch is completed.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self.locked("campaign_id", "completed_at") as batch:
            batch._refuse_if_ended()
            batch.allow_for_all_contacts()
            batch.contacts.bulk_insert(batch, contacts)
            batch.adjust_counters(total_contacts=len(contacts), queued=len(contacts))

    @audited("cancel", signal=batch_cancelled)
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def cancel(self, *, actor: Actor, source: Source) -> CancelResult:
        """
        Cancel the batch and skip every contact that was not called yet, all or nothing. Irreversible.

        Once this has returned, no contact of the batch is claimed for a call, by this app or by another service.
        Calls in progress continue until they end. The row is read again under its lock, so a stale instance or a
        concurrent writer changes nothing; the instance is not refreshed.

        An attempt waits up to 5 seconds for the batch's lock (10 if other locks keep overtaking it), 5 for the lock of
        a contact, and ``CANCEL_TIMEOUT`` for all contacts. A deadlock victim is tried again, at most three times, but
        not inside a caller's transaction. There a cancel is final, and its timeouts end, when that transaction commits.

        :param actor: who cancels, kept in the history.
        :param source: the entry point, kept in the history.
        :raises BatchAlreadyCancelled: the batch was cancelled before.
        :raises BatchAlreadyCompleted: the batch is completed.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed. If the connection broke during
            COMMIT the outcome is unknown. Calling cancel again is safe and shows the outcome.
        """
        with self.locked(*_CANCEL_COLUMNS) as batch:
            batch._refuse_if_ended()
            batch.allow_for_all_contacts()
            skipped = batch.contacts.dialable().update(
                status=ContactStatus.SKIPPED,
                outcome_notes=skip_note(BatchStatus.CANCELLED),
                updated_at=TransactionNow(),
            )
            with history_context(actor=actor, source=source, contacts_skipped=skipped):
                cancelled = (
                    CallBatch.objects.cancellable()
                    .filter(pk=batch.pk)
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
                # The lock is held and the batch can be cancelled, so a trigger of another service dropped the UPDATE.
                raise BatchUpdateFailed
            return batch._cancel_result(contacts_skipped=skipped)

    @database_errors_as(BatchUpdateFailed)
    def preview_cancel(self) -> CancelResult:
        """Return what :meth:`cancel` would do now, or raise what it would raise. Nothing is written or locked."""
        with transaction_with_timeouts(statement=settings.CANCEL_TIMEOUT):
            batch = self._read(*_CANCEL_COLUMNS)
            batch._refuse_if_ended()
            return batch._cancel_result(contacts_skipped=batch.contacts.dialable().count())

    @audited("pause")
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def pause(self, *, actor: Actor, source: Source) -> PauseResult:
        """
        Pause the batch: no new call starts until it is resumed. Calls in progress continue until they end.

        Our own dialler starts no call after this has returned. Another service may still commit a claim whose
        transaction began before the pause; the database refuses claims that begin later.

        :raises BatchNotPausable: the batch is neither processing nor scheduled.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self.locked(*_PAUSE_COLUMNS, **CLOCK) as batch:
            batch._refuse_unless_pausable()
            with history_context(actor=actor, source=source):
                if not batch._write_status(BatchStatus.PAUSED, paused_at=batch.now):
                    raise BatchUpdateFailed
            return batch._pause_result(BatchStatus.PAUSED, paused_at=batch.now)

    @database_errors_as(BatchUpdateFailed)
    def preview_pause(self) -> PauseResult:
        """Return what :meth:`pause` would do now, or raise what it would raise. Nothing is written or locked."""
        with transaction_with_timeouts():
            batch = self._read(*_PAUSE_COLUMNS, **CLOCK)
            batch._refuse_unless_pausable()
            return batch._pause_result(BatchStatus.PAUSED, paused_at=batch.now)

    @audited("resume")
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def resume(self, *, actor: Actor, source: Source) -> PauseResult:
        """
        Resume a paused batch. It becomes ``scheduled`` if its start time is in the future, else ``processing``.

        If the dialler had paused it, ``error_message`` is cleared. The text of another service is kept.

        :raises BatchNotPaused: the batch is not paused.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self.locked(*_PAUSE_COLUMNS, **CLOCK) as batch:
            batch._refuse_unless_paused()
            with history_context(actor=actor, source=source):
                if not batch._write_status(
                    batch._status_when_resumed, paused_at=None, error_message=_ERROR_MESSAGE_AFTER_RESUME
                ):
                    raise BatchUpdateFailed
            return batch._pause_result(batch._status_when_resumed, paused_at=None)

    @database_errors_as(BatchUpdateFailed)
    def preview_resume(self) -> PauseResult:
        """Return what :meth:`resume` would do now, or raise what it would raise. Nothing is written or locked."""
        with transaction_with_timeouts():
            batch = self._read(*_PAUSE_COLUMNS, **CLOCK)
            batch._refuse_unless_paused()
            return batch._pause_result(batch._status_when_resumed, paused_at=None)

    def _refuse_if_ended(self) -> None:
        if self.status == BatchStatus.COMPLETED:
            raise self._refusal(BatchAlreadyCompleted)
        if self.status == BatchStatus.CANCELLED:
            raise self._refusal(BatchAlreadyCancelled)

    def _refuse_unless_pausable(self) -> None:
        if self.status not in PAUSABLE:
            raise self._refusal(BatchNotPausable)

    def _refuse_unless_paused(self) -> None:
        if self.status != BatchStatus.PAUSED:
            raise self._refusal(BatchNotPaused)

    def _refusal(self, reason: type[BatchRefused]) -> BatchRefused:
        return reason(self.pk, self.status, self.completed_at)

    @property
    def _status_when_resumed(self) -> BatchStatus:
        return BatchStatus.SCHEDULED if self.is_scheduled_ahead else BatchStatus.PROCESSING

    def _cancel_result(self, *, contacts_skipped: int) -> CancelResult:
        in_progress = displayed(self.in_progress)
        return CancelResult(self.pk, self.agency_id, BatchStatus.CANCELLED, contacts_skipped, in_progress)

    def _pause_result(self, status: BatchStatus, *, paused_at: datetime | None) -> PauseResult:
        queued, in_progress = displayed(self.queued), displayed(self.in_progress)
        return PauseResult(self.pk, self.agency_id, status, paused_at, queued, in_progress)
