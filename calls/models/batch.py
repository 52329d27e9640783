"""Call batches: create, pause, resume, cancel and replace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import models, transaction
from django.db.models.functions import Coalesce

from calls.audit import Actor, Source, audited, history_context, log_verb
from calls.database.transactions import (
    database_errors_as,
    lock_name,
    refused_values_as_invalid,
    retry_on_deadlock,
    set_timeouts,
    transaction_with_timeouts,
)
from calls.database.triggers import batch_final
from calls.exceptions import (
    AgentMappingNotFound,
    BatchAlreadyCancelled,
    BatchAlreadyCompleted,
    BatchAlreadyReplaced,
    BatchCreateFailed,
    BatchNotCancelled,
    BatchNotPausable,
    BatchNotPaused,
    BatchRefused,
    BatchUpdateFailed,
    CampaignNotFound,
    FieldInvalid,
    NoContactsToReplace,
)
from calls.inputs import REPLACEMENT_DEFAULTS, NewBatch, NewContact, NewReplacement
from calls.models.agency import Agency
from calls.models.campaign import AgencyPhoneNumber, AgentMapping, Campaign
from calls.models.fields import EnumTextField
from calls.models.locking import CLOCK, ERROR_MESSAGE_AFTER_RESUME, LockableBatch
from calls.models.querysets import CallBatchQuerySet, CampaignContactQuerySet
from calls.models.results import CancelResult, CreateResult, PauseResult, displayed
from calls.signals import batch_cancelled, batch_created
from calls.statuses import PAUSABLE, STARTABLE, BatchStatus, ContactStatus, Mode, skip_note

# Each verb reads only these columns under the lock, so an unreadable value in another column cannot prevent a cancel.
_CANCEL_COLUMNS = ("in_progress", "completed_at")
_PAUSE_COLUMNS = ("queued", "in_progress", "completed_at")
_REPLACE_COLUMNS = (*REPLACEMENT_DEFAULTS, "completed_at")


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
    # The cancelled batch whose skipped contacts were copied to this batch. Unique: a batch is replaced once. Not a
    # foreign key in the database, so that another service can delete the cancelled batch.
    replaces = models.OneToOneField(
        "self", on_delete=models.DO_NOTHING, null=True, blank=True, related_name="replaced_by", db_constraint=False
    )

    objects = CallBatchQuerySet.as_manager()

    class Meta:
        db_table = "call_batches"
        verbose_name_plural = "call batches"
        # For staff in the admin. Django's "change" permission does not imply any of these.
        permissions = [
            (f"{verb}_callbatch", f"Can {verb} call batch") for verb in ("cancel", "pause", "resume", "replace")
        ]
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
            batch = cls._insert(agency_id, new.batch_values, actor=actor, source=source)
            distinct = new.distinct_contacts
            with refused_values_as_invalid("contacts"):
                batch.add_contacts(distinct)
            batch.total_contacts = len(distinct)

        log = partial(log_verb, "create", batch, actor=actor, source=source, started=started)
        result = CreateResult(batch, duplicates_removed=len(new.contacts) - len(distinct))
        transaction.on_commit(partial(log, outcome=batch.status, **result.numbers))
        transaction.on_commit(partial(batch_created.send_robust, sender=cls, result=result))
        return result

    @audited("replace", signal=batch_created)
    @database_errors_as(BatchCreateFailed)
    def replace(self, new: NewReplacement, *, actor: Actor, source: Source) -> CreateResult:
        """
        Create a batch with the contacts that the cancel of this batch skipped, all or nothing.

        They keep their order and their fields, and have no attempts. Contacts that were called before the cancel, or
        that are marked ``do_not_call``, are left out. Fields that ``new`` does not set are copied from this batch,
        except the start time. The row is read again; while a cancel is uncommitted, the batch counts as not cancelled.
        A batch can be replaced only once.

        Copying the contacts may take ``CANCEL_TIMEOUT``, and so may the wait for another replacement of this batch.
        This batch is not locked meanwhile.

        :raises BatchNotCancelled: the batch is not cancelled.
        :raises BatchAlreadyReplaced: the batch was replaced before.
        :raises NoContactsToReplace: there is no contact to copy; nothing was stored.
        :raises AgentMappingNotFound: the agency has no such agent.
        :raises CampaignNotFound: the agency has no such campaign.
        :raises FieldInvalid: the caller id is not active, or a constraint of the table rejects a contact.
        :raises BatchNotFound: the row is gone.
        :raises BatchCreateFailed: a database error or timeout; nothing was stored.
        """
        with transaction_with_timeouts():
            # Lock the id and not the row: recording the end of the batch's last calls would wait for the row.
            set_timeouts(lock=settings.CANCEL_TIMEOUT, statement=settings.CANCEL_TIMEOUT)
            lock_name(f"replace {self.pk}")
            set_timeouts()
            cancelled = self._read(*_REPLACE_COLUMNS)
            if cancelled.status != BatchStatus.CANCELLED:
                raise cancelled._refusal(BatchNotCancelled)
            earlier = CallBatch.objects.filter(replaces=cancelled.pk).values_list("pk", flat=True).first()
            if earlier is not None:
                raise BatchAlreadyReplaced(earlier)
            defaults = {name: getattr(cancelled, name) for name in REPLACEMENT_DEFAULTS}
            values = defaults | new.batch_values | {"replaces": cancelled}
            batch = self._insert(cancelled.agency_id, values, actor=actor, source=source)
            batch.allow_for_all_contacts()
            with refused_values_as_invalid("contacts"), database_errors_as(BatchCreateFailed):
                batch.total_contacts = CampaignContactQuerySet.copy_skipped(cancelled, batch)
            if not batch.total_contacts:
                raise NoContactsToReplace
            batch.adjust_counters(total_contacts=batch.total_contacts, queued=batch.total_contacts)
            return CreateResult(batch, duplicates_removed=0)

    @classmethod
    def _insert(cls, agency_id: UUID, values: dict[str, Any], *, actor: Actor, source: Source) -> CallBatch:
        """Insert the row of a batch, still without contacts. Its agent, campaign and caller id must be the agency's."""
        agent = AgentMapping.objects.filter(agency=agency_id, pk=values["agent_mapping_id"]).first()
        if agent is None:
            raise AgentMappingNotFound
        if not Campaign.objects.filter(agency=agency_id, pk=values["campaign_id"]).exists():
            raise CampaignNotFound
        if not AgencyPhoneNumber.objects.is_active(agency_id, values["from_number"]):
            raise FieldInvalid("from_number", "must be an active phone number of the agency")
        batch = cls(agency_id=agency_id, **values)
        batch.agent_mapping = agent
        with history_context(actor=actor, source=source):
            batch.save(force_insert=True)
        return batch

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
    def cancel(self, *, actor: Actor, source: Source, reason: str | None = None) -> CancelResult:
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
        :param reason: why, kept in the history.
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
            with history_context(actor=actor, source=source, reason=reason, contacts_skipped=skipped):
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
            return batch._cancel_result(BatchStatus.CANCELLED, contacts_skipped=skipped)

    @database_errors_as(BatchUpdateFailed)
    def preview_cancel(self) -> CancelResult:
        """
        Return what :meth:`cancel` would do now, or raise what it would raise. Nothing is written or locked.

        The ``status`` of the result is the batch's current status.
        """
        with transaction_with_timeouts(statement=settings.CANCEL_TIMEOUT):
            batch = self._read(*_CANCEL_COLUMNS)
            batch._refuse_if_ended()
            return batch._cancel_result(batch.status, contacts_skipped=batch.contacts.dialable().count())

    @audited("pause")
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def pause(self, *, actor: Actor, source: Source, reason: str | None = None) -> PauseResult:
        """
        Pause the batch: no new call starts until it is resumed. Calls in progress continue until they end.

        Once this has returned, no contact of the batch is claimed, by this app or by another service, with one
        exception. The pause waits for the transactions that were writing contacts when it was committed, at most 5
        seconds. If one is still open then, another service may still commit a claim, which is logged as a warning.
        Inside a caller's transaction, the pause is in force when that transaction commits.

        :param reason: kept in the history.
        :raises BatchNotPausable: the batch is neither processing nor scheduled.
        :raises BatchNotFound: the row is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self.locked(*_PAUSE_COLUMNS, **CLOCK) as batch:
            batch._refuse_unless_pausable()
            with history_context(actor=actor, source=source, reason=reason):
                if not batch._write_status(BatchStatus.PAUSED, paused_at=batch.now):
                    raise BatchUpdateFailed
            transaction.on_commit(batch.wait_for_other_services)
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
                    batch._status_when_resumed, paused_at=None, error_message=ERROR_MESSAGE_AFTER_RESUME
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

    def _cancel_result(self, status: str, *, contacts_skipped: int) -> CancelResult:
        return CancelResult(self.pk, self.agency_id, status, contacts_skipped, displayed(self.in_progress))

    def _pause_result(self, status: BatchStatus, *, paused_at: datetime | None) -> PauseResult:
        queued, in_progress = displayed(self.queued), displayed(self.in_progress)
        return PauseResult(self.pk, self.agency_id, status, paused_at, queued, in_progress)
