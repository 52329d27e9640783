"""One person to call in a batch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.db.models.functions import Coalesce, Greatest, Now

from calls.database import triggers as guards
from calls.database.transactions import bounded, failing_as, retrying_deadlocks
from calls.exceptions import BatchUpdateFailed
from calls.models.agency import Agency
from calls.models.base import BaseModel, EnumTextField, LenientJSONDecoder
from calls.models.batch import CallBatch
from calls.models.campaign import Campaign
from calls.models.querysets import ATTEMPTED_IN, UNDER_WAY_IN, CampaignContactQuerySet
from calls.statuses import BatchStatus, ContactStatus, Outcome

StatusIn = Callable[[CallBatch], ContactStatus]

# How many contacts that are not to be called one claim puts aside: others wait for the batch meanwhile.
PUT_ASIDE = 100
# Nobody has recorded a call for it meanwhile.
NOT_RECORDED = models.Q(call_id=None)


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
            # For cancel, which skips a batch's contacts, and for whoever lists them, oldest first. Like all others here
            # it names no column that a cancel writes, so that no index has to learn of it (a heap-only update).
            models.Index(name="contact_in_order", fields=["batch", "created_at", "id"]),
            # For staff with a complaint, who look for the batch that calls a number.
            models.Index(name="contact_by_phone_number", fields=["phone_number"]),
            # For claims, which take the next of those that are not over, however many are. Its second column is empty
            # throughout: no other index gives the order of all three, so the planner has no choice to get wrong.
            models.Index(
                name="contact_not_over",
                fields=["batch", "completed_at", "created_at", "id"],
                condition=models.Q(completed_at=None),
            ),
            # For claims, which count the calls that are under way and those of the last minute, and for the sweep.
            models.Index(UNDER_WAY_IN, name="contact_under_way_in"),
            models.Index(ATTEMPTED_IN, "last_attempt_at", name="contact_attempted_in"),
        ]
        triggers = [guards.contact_batch_live, guards.contact_batch_live_insert]

    def __str__(self) -> str:
        return str(self.pk)

    @classmethod
    def claim_next(cls, batch: CallBatch) -> CampaignContact | None:
        """
        Claim the contact of ``batch`` to call next. The call may be placed once this is committed, and never before.

        The contact is in progress from then on and its attempt counted. None means that there is nobody to call now:
        the batch is not being dialled, has as many calls as it may have, or nobody is left, which completes it if no
        call is under way. Who must not be called is skipped, and a contact that another service has locked passed over.

        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        with failing_as(BatchUpdateFailed), batch.locked("calls_per_minute", "max_concurrent") as now:
            if now.status != BatchStatus.PROCESSING or now.is_held or not now.may_begin():
                return None
            contact = cls._next(now)
            if contact is not None:
                cls.objects.filter(pk=contact.pk).update(
                    status=ContactStatus.IN_PROGRESS,
                    attempts=Coalesce("attempts", 0) + 1,
                    last_attempt_at=Now(),
                    # Those of the attempt before, if there was one.
                    call_id=None,
                    outcome=None,
                    outcome_notes=None,
                    duration_seconds=None,
                    updated_at=TransactionNow(),
                )
                now.count(queued=-1, in_progress=1)
                contact.refresh_from_db()
            return contact

    @classmethod
    def _next(cls, batch: CallBatch) -> CampaignContact | None:
        """The contact to claim, locked; on the way those are put aside that are not to be called."""
        waiting = cls.objects.filter(batch=batch.pk).claimable().in_turn()
        for _ in range(PUT_ASIDE):
            contact = waiting.select_for_update(of=("self",), skip_locked=True).first()
            if contact is None:
                batch.complete_if_over()
                return None
            if contact.do_not_call:
                contact._put_aside(batch, ContactStatus.SKIPPED, "Do not call")
            elif not contact.has_attempts_left:
                contact._put_aside(batch, ContactStatus.FAILED, "No attempts left", completed_at=TransactionNow())
            else:
                return contact
        return None

    def _put_aside(self, batch: CallBatch, status: ContactStatus, why: str, **values: Any) -> None:
        CampaignContact.objects.filter(pk=self.pk).update(
            status=status, outcome_notes=why, updated_at=TransactionNow(), **values
        )
        batch.count(**{"queued": -1, str(status): 1})

    @property
    def has_attempts_left(self) -> bool:
        """Whether this contact may be called again, by the attempts that were counted when it was read."""
        return (self.attempts or 0) < (3 if self.max_attempts is None else self.max_attempts)

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

    def lose(self) -> bool:
        """
        Record that nobody will ever know what came of the call. The contact has failed, whatever attempts are left.

        :returns: False if that call is not under way any more, as with :meth:`finish`.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        return self._end(lambda batch: ContactStatus.FAILED, outcome=Outcome.UNKNOWN)

    def refuse(self, *, reason: str) -> bool:
        """
        Record that the provider has not taken the call, so that nobody was called in this attempt, which counts.

        The contact is queued again, or has failed, as with :meth:`fail`; in a batch that has ended it is skipped.

        :param reason: for whoever looks at the contact.
        :returns: False if the call is not under way any more, as with :meth:`finish`.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        return self._end(
            self._unless_ended(self._after_a_failure), NOT_RECORDED, outcome=Outcome.NOT_PLACED, outcome_notes=reason
        )

    def give_back(self, *, hold: timedelta | None = None) -> bool:
        """
        Undo the claim, as if there had been no attempt: nobody was called, for no reason of this contact's.

        It is queued again; in a batch that has ended it is skipped.

        :param hold: begin no call of the batch for so long, since the provider takes none.
        :returns: False if the call is not under way any more, as with :meth:`finish`.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        first = (self.attempts or 0) <= 1
        return self._end(
            self._unless_ended(lambda batch: ContactStatus.QUEUED),
            NOT_RECORDED,
            hold=hold,
            outcome=Outcome.NOT_PLACED,
            attempts=max((self.attempts or 0) - 1, 0),
            last_attempt_at=None if first else self.last_attempt_at,
        )

    def note(self, reason: str) -> None:
        """
        Record that nobody knows whether somebody is being called in this attempt, and why. It stays under way.

        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """
        with failing_as(BatchUpdateFailed), bounded():
            self.in_this_attempt().filter(NOT_RECORDED).update(outcome_notes=reason, updated_at=TransactionNow())

    def in_this_attempt(self) -> CampaignContactQuerySet:
        """
        This contact, as long as it is in the attempt that this instance was claimed for, or read in.

        Each claim has a time of its own; its number comes again where a claim was given back.
        """
        return CampaignContact.objects.filter(
            pk=self.pk,
            attempts=self.attempts,
            last_attempt_at=self.last_attempt_at,
            status=ContactStatus.IN_PROGRESS,
        )

    def _after_a_failure(self, batch: CallBatch) -> ContactStatus:
        again = not batch.has_ended and self.has_attempts_left
        return ContactStatus.QUEUED if again else ContactStatus.FAILED

    @staticmethod
    def _unless_ended(status_in: StatusIn) -> StatusIn:
        return lambda batch: ContactStatus.SKIPPED if batch.has_ended else status_in(batch)

    def _end(
        self, status_in: StatusIn, only: models.Q | None = None, *, hold: timedelta | None = None, **values: Any
    ) -> bool:
        def end() -> bool:
            with CallBatch(pk=self.batch_id).locked() as batch:
                status = status_in(batch)
                if status == ContactStatus.SKIPPED:
                    values["outcome_notes"] = f"Batch {batch.status}"
                if hold is not None:
                    CallBatch.objects.filter(pk=batch.pk).update(dial_after=Greatest("dial_after", Now() + hold))
                under_way = self.in_this_attempt().filter(only or models.Q(), batch=batch.pk)
                over = status in (ContactStatus.COMPLETED, ContactStatus.FAILED)
                ended = under_way.update(
                    status=status,
                    completed_at=TransactionNow() if over else None,
                    updated_at=TransactionNow(),
                    **values,
                )
                if ended:
                    batch.count(**{"in_progress": -1, str(status): 1})
                    batch.complete_if_over()
                return bool(ended)

        with failing_as(BatchUpdateFailed):
            return retrying_deadlocks(end)
