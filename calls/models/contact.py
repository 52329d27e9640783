"""One person to call in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.db.models.functions import Coalesce

from calls import guards
from calls.db import failing_as, retrying_deadlocks
from calls.exceptions import BatchUpdateFailed
from calls.models.agency import Agency
from calls.models.base import BaseModel, EnumTextField, LenientJSONDecoder
from calls.models.batch import CallBatch
from calls.models.campaign import Campaign
from calls.querysets import CampaignContactQuerySet
from calls.statuses import BatchStatus, ContactStatus


class CampaignContact(BaseModel):
    """
    One person to call, and how far that got. A batch has up to a million of them.

    ``contact_batch_live`` keeps every writer, also those outside this code, from making one dialable or in
    progress where its batch has ended.
    """

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="contacts", db_index=False)
    campaign = models.ForeignKey(Campaign, on_delete=models.PROTECT, related_name="contacts", db_index=False)
    batch = models.ForeignKey(
        CallBatch, on_delete=models.PROTECT, null=True, blank=True, related_name="contacts", db_index=False
    )
    # Checked where contacts enter: a CHECK would run on every update.
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
    # The calls row of the latest attempt.
    call_id = models.UUIDField(null=True, blank=True)
    attempts = models.IntegerField(default=0, db_default=0)
    max_attempts = models.IntegerField(default=3, db_default=3)
    outcome = models.TextField(null=True, blank=True)
    outcome_notes = models.TextField(null=True, blank=True)
    duration_seconds = models.IntegerField(null=True, blank=True)
    last_attempt_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    objects = CampaignContactQuerySet.as_manager()

    class Meta:
        db_table = "campaign_contacts"
        constraints = [
            # For everybody: a status that no code knows would be neither dialled nor skipped.
            models.CheckConstraint(name="contact_status_known", condition=models.Q(status__in=ContactStatus.values)),
        ]
        indexes = [
            # For cancel, which skips a batch's contacts, and for whoever lists them or claims the next, oldest first.
            # It names no column that those write, so they need no new index entries (a heap-only update).
            models.Index(name="contact_in_order", fields=["batch", "created_at", "id"]),
            # For staff with a complaint, who look for the batch that calls a number.
            models.Index(name="contact_by_phone_number", fields=["phone_number"]),
        ]
        triggers = [guards.contact_batch_live, guards.contact_batch_live_insert]

    def __str__(self) -> str:
        return str(self.pk)

    @classmethod
    def claim_next(cls, batch: CallBatch) -> CampaignContact | None:
        """
        Claim the contact of ``batch`` to call next. The call may be placed once this is committed, and never before.

        The contact is in progress from then on and its attempt counted. None means that there is nobody to call: the
        batch is not being dialled, or nobody is left. A contact that another service has locked is passed over.

        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        with failing_as(BatchUpdateFailed), batch.locked() as now:
            if now.status != BatchStatus.PROCESSING:
                return None
            waiting = cls.objects.filter(batch=batch.pk).claimable().oldest_first()
            contact = waiting.select_for_update(of=("self",), skip_locked=True).first()
            if contact is not None:
                cls.objects.filter(pk=contact.pk).update(
                    status=ContactStatus.IN_PROGRESS,
                    attempts=Coalesce("attempts", 0) + 1,
                    last_attempt_at=TransactionNow(),
                    updated_at=TransactionNow(),
                )
                now.count(queued=-1, in_progress=1)
                contact.refresh_from_db()
            return contact

    def finish(self, *, outcome: str, duration_seconds: int | None = None) -> bool:
        """
        Record that the call has been answered and is over, also where the batch has ended meanwhile.

        It is the call of the attempt that this instance was claimed for.

        :param duration_seconds: how long they spoke.
        :returns: False if that call is not under way any more: an outcome that arrives twice counts once, and none ends
            the next attempt.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        return self._end(lambda batch: ContactStatus.COMPLETED, outcome=outcome, duration_seconds=duration_seconds)

    def fail(self, *, outcome: str) -> bool:
        """
        Record that the call came to nothing: the one of the attempt that this instance was claimed for.

        The contact is queued again while attempts are left and the batch has not ended; else it has failed for good.

        :returns: False if that call is not under way any more, as with :meth:`finish`.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        return self._end(self._after_a_failure, outcome=outcome)

    def _after_a_failure(self, batch: CallBatch) -> ContactStatus:
        again = not batch.has_ended and (self.attempts or 0) < (self.max_attempts or 0)
        return ContactStatus.QUEUED if again else ContactStatus.FAILED

    def _end(self, status_in: Callable[[CallBatch], ContactStatus], **values: Any) -> bool:
        def end() -> bool:
            with CallBatch(pk=self.batch_id).locked() as batch:
                status = status_in(batch)
                under_way = CampaignContact.objects.filter(
                    pk=self.pk, batch=batch.pk, attempts=self.attempts, status=ContactStatus.IN_PROGRESS
                )
                ended = under_way.update(
                    status=status,
                    completed_at=None if status == ContactStatus.QUEUED else TransactionNow(),
                    updated_at=TransactionNow(),
                    **values,
                )
                if ended:
                    batch.count(**{"in_progress": -1, str(status): 1})
                return bool(ended)

        with failing_as(BatchUpdateFailed):
            return retrying_deadlocks(end)
