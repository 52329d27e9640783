"""Contacts of a batch, and how the result of an attempt to call one is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import models

from calls.database.transactions import database_errors_as, retry_on_deadlock, transaction_with_timeouts
from calls.database.triggers import contact_batch_live, contact_batch_live_insert
from calls.exceptions import BatchUpdateFailed
from calls.models.agency import Agency
from calls.models.base import BaseModel
from calls.models.batch import CallBatch
from calls.models.campaign import Campaign
from calls.models.fields import EnumTextField, LenientJSONDecoder
from calls.models.querysets import (
    AGENCY_IF_CALL_IN_PROGRESS,
    BATCH_IF_ATTEMPTED,
    BATCH_IF_CALL_IN_PROGRESS,
    LAST_CALLED,
    CampaignContactQuerySet,
)
from calls.models.refusals import give_back, has_accepted, latest_results, streak_before, streak_reason, was_paused_for
from calls.statuses import ContactStatus, Outcome, not_placed_note, skip_note

# The note of a contact whose number does not exist.
INVALID_NUMBER = "Invalid number"


class CampaignContact(BaseModel):
    """
    One person to call, and the state of that call. A batch may have a million contacts.

    The trigger ``contact_batch_live`` keeps every writer, including other services, from making a contact dialable or
    in progress when its batch has ended, and from claiming it when its batch has ended or is paused.
    """

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="contacts", db_index=False)
    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="contacts", db_index=False)
    batch = models.ForeignKey(
        CallBatch, on_delete=models.PROTECT, null=True, blank=True, related_name="contacts", db_index=False
    )
    # Validated when contacts are added. A CHECK constraint would run on every UPDATE.
    phone_number = models.TextField(help_text="E.164")
    first_name = models.TextField(default="", db_default="", blank=True)
    last_name = models.TextField(default="", db_default="", blank=True)
    email = models.TextField(default="", db_default="", blank=True)
    company = models.TextField(default="", db_default="", blank=True)
    title = models.TextField(default="", db_default="", blank=True)
    timezone = models.TextField(default="", db_default="", blank=True)
    custom_data = models.JSONField(default=dict, db_default={}, blank=True, decoder=LenientJSONDecoder)
    do_not_call = models.BooleanField(default=False, db_default=False)

    status = EnumTextField(choices=ContactStatus, default=ContactStatus.PENDING, db_default=ContactStatus.PENDING)
    # The id in ``calls`` of the latest attempt's call.
    call_id = models.UUIDField(null=True, blank=True)
    attempts = models.IntegerField(default=0, db_default=0)
    max_attempts = models.IntegerField(default=3, db_default=3)
    outcome = models.TextField(null=True, blank=True)
    outcome_notes = models.TextField(null=True, blank=True)
    duration_seconds = models.IntegerField(null=True, blank=True)
    last_attempt_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    objects = CampaignContactQuerySet.as_manager()

    # Set by claim_next_contact: the previous attempt was released or rejected without a recorded call.
    was_given_back = False

    class Meta:
        db_table = "campaign_contacts"
        constraints = [
            # For all writers: a contact in an unknown status would be neither dialled nor skipped.
            models.CheckConstraint(name="contact_status_known", condition=models.Q(status__in=ContactStatus.values)),
        ]
        indexes = [
            # No index contains a column that a cancel writes, so a cancel updates no index (heap-only tuples).
            #
            # For cancel, which skips a batch's contacts, and for lists of contacts, oldest first.
            models.Index(name="contact_in_order", fields=["batch", "created_at", "id"]),
            # For staff who search the batch that calls a number.
            models.Index(name="contact_by_phone_number", fields=["phone_number"]),
            # For claims, which take the next unfinished contact, however many are finished. No other index has this
            # order, so the planner cannot choose a slower one.
            models.Index(
                *("batch", LAST_CALLED, "created_at", "id"),
                name="contact_in_call_order",
                condition=models.Q(completed_at=None),
            ),
            # For claims, which count the calls in progress and the calls of the last minute, and for the sweep.
            models.Index(BATCH_IF_CALL_IN_PROGRESS, name="contact_under_way_in"),
            models.Index(BATCH_IF_ATTEMPTED, "last_attempt_at", name="contact_attempted_in"),
            # For claims, which count the calls of an agency and look for a call to the same number.
            models.Index(
                *(AGENCY_IF_CALL_IN_PROGRESS, "phone_number"),
                name="contact_calling_number",
                condition=models.Q(last_attempt_at__isnull=False, outcome=None),
            ),
        ]
        triggers = [contact_batch_live, contact_batch_live_insert]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def has_attempts_left(self) -> bool:
        """Whether ``attempts``, as read with this instance, allows another attempt."""
        return (self.attempts or 0) < (3 if self.max_attempts is None else self.max_attempts)

    @property
    def is_placement_unclear(self) -> bool:
        """Whether :meth:`record_unclear` was called in this attempt. A claim clears ``outcome_notes``."""
        return bool(self.outcome_notes)

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_answered(
        self, *, outcome: str, duration_seconds: int | None = None, locked: CallBatch | None = None
    ) -> bool:
        """
        Record that the call was answered and has ended. This also works after the batch has ended.

        :param duration_seconds: how long the conversation took.
        :param locked: the contact's batch, if the caller has locked it already.
        :returns: False if the attempt that this instance was claimed for has already ended, so that an event that
            arrives twice counts once.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self._locked_batch(locked) as batch:
            return self._end_attempt(batch, ContactStatus.COMPLETED, outcome=outcome, duration_seconds=duration_seconds)

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_failed(self, *, outcome: str, locked: CallBatch | None = None) -> bool:
        """
        Record that the call failed or was not answered.

        The contact is queued again while attempts are left and the batch has not ended. Otherwise it becomes
        ``failed``.

        :param locked: as in :meth:`record_answered`.
        :returns: False if the attempt has already ended, as in :meth:`record_answered`.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self._locked_batch(locked) as batch:
            return self._end_attempt(batch, self._status_after_failure(batch), outcome=outcome)

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_invalid_number(self, *, outcome: str, locked: CallBatch | None = None) -> bool:
        """
        Record that the carrier does not know the number. The contact becomes ``failed``, whatever attempts are left.

        If the attempt has ended and the contact waits for the next one, it is not called again either.

        :param locked: as in :meth:`record_answered`.
        :returns: False if the contact has been called again, has finished, or was recorded as invalid before.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with self._locked_batch(locked) as batch:
            if self._end_attempt(batch, ContactStatus.FAILED, outcome=outcome, outcome_notes=INVALID_NUMBER):
                return True
            # A later claim would have cleared call_id. If the note is set, another service has queued it since.
            waiting = batch.contacts.dialable().filter(pk=self.pk, call_id=self.call_id)
            failed = waiting.exclude(outcome_notes=INVALID_NUMBER).update(
                status=ContactStatus.FAILED,
                outcome_notes=INVALID_NUMBER,
                completed_at=TransactionNow(),
                updated_at=TransactionNow(),
            )
            if failed:
                batch.adjust_counters(queued=-1, failed=1)
                batch.complete_if_finished()
            return bool(failed)

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_lost(self) -> bool:
        """
        Record that the result of the call is unknown. The contact becomes ``failed`` and is not called again.

        :returns: False if the attempt has already ended, as in :meth:`record_answered`.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with CallBatch(pk=self.batch_id).locked() as batch:
            return self._end_attempt(batch, ContactStatus.FAILED, outcome=Outcome.UNKNOWN)

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_rejected(self, *, reason: str, is_about_number: bool = False) -> bool:
        """
        Record that the provider rejected the call, so no call was placed. The attempt counts.

        The contact is queued again or has failed, as in :meth:`record_failed`. If the batch has ended, the contact is
        skipped. The fifth rejection in a row for the same reason is not about the contacts: the dialler pauses the
        batch, and none of the five attempts counts.

        :param reason: shown to staff with the contact.
        :param is_about_number: the provider named the number, so the rejection never counts as one of five in a row.
        :returns: False if the attempt has already ended, as in :meth:`record_answered`.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with CallBatch(pk=self.batch_id).locked("error_message") as batch:
            if batch.has_ended:
                status, note = ContactStatus.SKIPPED, skip_note(batch.status)
            else:
                status, note = self._status_after_failure(batch), reason
                if not is_about_number:
                    streak = streak_before(latest_results(batch, excluding=self), note)
                    # A rejection may arrive after the ones before it have paused the batch.
                    if streak or was_paused_for(batch, note):
                        return self._give_back_streak(batch, streak, streak_reason(note))
            return self._end_attempt(
                batch, status, unless_call_recorded=True, outcome=Outcome.NOT_PLACED, outcome_notes=note
            )

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_batch_refused(self, *, reason: str, unless_others_accepted: bool = False) -> bool:
        """
        Record that the provider refuses all calls of the batch, so no call was placed. The dialler pauses the batch.

        The attempt does not count. The contact is queued again, or skipped if the batch has ended.

        :param reason: kept in the history, and shown to staff and users with the batch.
        :param unless_others_accepted: if the provider accepted one of the four latest calls of the batch, the refusal
            is about this contact alone, and is recorded as in :meth:`record_rejected`.
        :returns: whether the attempt was undone. False if it has already ended, or counts as a rejection.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        note = not_placed_note(reason)
        with CallBatch(pk=self.batch_id).locked("error_message") as batch:
            if batch.has_ended:
                return self.release_claim()
            results = latest_results(batch, excluding=self)
            # Attempts that were undone when the batch was paused are missing here, so the reason is compared too.
            if unless_others_accepted and has_accepted(results) and not was_paused_for(batch, note):
                self.record_rejected(reason=note)
                return False
            return self._give_back_streak(batch, streak_before(results, note), reason)

    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def release_claim(self) -> bool:
        """
        Undo the claim: no call was placed, for a reason that has nothing to do with this contact.

        The attempt does not count. The contact is queued again behind the others, or skipped if the batch has ended.

        :returns: False if the attempt has already ended, as in :meth:`record_answered`.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        attempts = self.attempts or 0
        with CallBatch(pk=self.batch_id).locked() as batch:
            values: dict[str, Any] = {
                "outcome": Outcome.NOT_PLACED,
                "attempts": max(attempts - 1, 0),
            }
            status = ContactStatus.QUEUED
            if batch.has_ended:
                status = ContactStatus.SKIPPED
                values["outcome_notes"] = skip_note(batch.status)
            return self._end_attempt(batch, status, unless_call_recorded=True, **values)

    @database_errors_as(BatchUpdateFailed)
    def record_unclear(self, reason: str) -> None:
        """
        Record that the provider's answer does not tell whether the contact is being called. It stays in progress.

        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with transaction_with_timeouts():
            attempt = self.in_this_attempt().filter(call_id=None)
            attempt.update(outcome_notes=reason, updated_at=TransactionNow())

    def in_this_attempt(self) -> CampaignContactQuerySet:
        """
        Return this contact's row, or no row once the attempt that this instance was claimed for has ended.

        ``last_attempt_at`` identifies a claim. ``attempts`` alone does not: a released claim does not count, so the
        next claim has the same number.
        """
        return CampaignContact.objects.filter(
            pk=self.pk,
            attempts=self.attempts,
            last_attempt_at=self.last_attempt_at,
            status=ContactStatus.IN_PROGRESS,
        )

    def _give_back_streak(self, batch: CallBatch, others: Sequence[CampaignContact], pause_reason: str) -> bool:
        """
        Undo this attempt and those of ``others``, which were rejected as well, and pause the batch.

        Return False, and change nothing, if this attempt has already ended.
        """
        # An unclear answer left a note. The contact must not count as one of the next five.
        self.in_this_attempt().update(outcome_notes=None)
        released = self.release_claim()
        if released:
            give_back(batch, others)
            batch.pause_as_dialler(pause_reason)
        return released

    def _locked_batch(self, locked: CallBatch | None) -> AbstractContextManager[CallBatch]:
        """Lock the contact's batch, unless ``locked`` is that batch."""
        if locked is not None and locked.pk == self.batch_id:
            return nullcontext(locked)
        return CallBatch(pk=self.batch_id).locked()

    def _status_after_failure(self, batch: CallBatch) -> ContactStatus:
        retry = not batch.has_ended and self.has_attempts_left
        return ContactStatus.QUEUED if retry else ContactStatus.FAILED

    def _end_attempt(
        self, batch: CallBatch, status: ContactStatus, *, unless_call_recorded: bool = False, **values: Any
    ) -> bool:
        """End the attempt of a contact of ``batch``, which is locked. Return False if it has already ended."""
        attempt = self.in_this_attempt().filter(batch=batch.pk)
        if unless_call_recorded:
            attempt = attempt.filter(call_id=None)
        is_final = status in (ContactStatus.COMPLETED, ContactStatus.FAILED)
        ended = attempt.update(
            status=status,
            completed_at=TransactionNow() if is_final else None,
            updated_at=TransactionNow(),
            **values,
        )
        if ended:
            # The counters have the names of the statuses.
            batch.adjust_counters(**{"in_progress": -1, str(status): 1})
            batch.complete_if_finished()
        return bool(ended)
