"""One call that the provider accepted, and what is heard of it."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import DataError, IntegrityError, connection, models, transaction

from calls.database.transactions import bounded, failing_as, retrying_deadlocks
from calls.exceptions import BatchNotFound, BatchUpdateFailed
from calls.models.agency import Agency
from calls.models.base import BaseModel
from calls.models.batch import CallBatch
from calls.models.contact import CampaignContact
from calls.models.webhook_event import Heard, WebhookEvent
from calls.statuses import CallStatus, ContactStatus, Outcome

logger = logging.getLogger(__name__)


class Call(BaseModel):
    """One call, under the id that the provider gave it."""

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="calls", db_index=False)
    batch = models.ForeignKey(
        CallBatch, on_delete=models.PROTECT, null=True, blank=True, related_name="calls", db_index=False
    )
    contact = models.ForeignKey(
        CampaignContact, on_delete=models.PROTECT, null=True, blank=True, related_name="calls", db_index=False
    )
    ultravox_call_id = models.TextField(unique=True)
    direction = models.TextField(default="outbound", db_default="outbound")
    from_number = models.TextField(default="", db_default="")
    to_number = models.TextField(default="", db_default="")
    status = models.TextField(default=CallStatus.INITIATED, db_default=CallStatus.INITIATED)
    end_reason = models.TextField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    joined_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    duration_seconds = models.IntegerField(null=True, blank=True)
    short_summary = models.TextField(null=True, blank=True)
    metadata = models.JSONField(default=dict, db_default={}, blank=True)

    class Meta:
        db_table = "calls"

    def __str__(self) -> str:
        return self.ultravox_call_id

    @classmethod
    def record(cls, contact: CampaignContact, call_id: str, *, caller_id: str) -> bool:
        """
        Record that the provider has accepted the call of a claimed contact, with all that was heard of it already.

        :param call_id: the provider's id of it.
        :param caller_id: the number that it is made from, E.164.
        :returns: False if it is another contact's call already; nothing was changed.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was changed.
        """

        def record() -> bool:
            with CallBatch(pk=contact.batch_id).locked() as batch:
                lock_call(call_id)
                call, _ = cls.objects.get_or_create(
                    ultravox_call_id=call_id,
                    defaults={
                        "agency_id": batch.agency_id,
                        "batch": batch,
                        "contact": contact,
                        "from_number": caller_id,
                        "to_number": contact.phone_number,
                        "metadata": {"attempt": contact.attempts},
                    },
                )
                if call.contact_id is None and call.agency_id == batch.agency_id:
                    # Another service has heard of it first, and does not know whose it is.
                    call.batch, call.contact = batch, contact
                    if isinstance(call.metadata, dict):
                        call.metadata |= {"attempt": contact.attempts}
                    call.save(update_fields=["batch", "contact", "metadata", "updated_at"])
                if call.contact_id != contact.pk:
                    logger.error("call=%s is another contact's already, not contact=%s", call_id, contact.pk)
                    return False
                if not contact.in_this_attempt().update(
                    call_id=call.pk, outcome_notes=None, updated_at=TransactionNow()
                ):
                    logger.warning("call=%s came late: contact=%s is not in its attempt any more", call_id, contact.pk)
                call.settle()
                return True

        with failing_as(BatchUpdateFailed):
            return retrying_deadlocks(record)

    @classmethod
    def hear(cls, event: WebhookEvent) -> None:
        """
        Store what the provider says of a call, and let it have its effect: all of it, or nothing, and once.

        Where the call is not known, since its answer is still under way, the effect comes when it is recorded.

        :raises BatchUpdateFailed: the database refused, failed or took too long; nothing was stored.
        """

        def hear() -> None:
            known = cls.objects.filter(ultravox_call_id=event.ultravox_call_id or None, agency=event.agency_id)
            with bounded():
                batch = CallBatch.objects.filter(pk__in=known.values("batch")).only("pk").first()
                with batch.locked() if batch else nullcontext():
                    lock_call(event.ultravox_call_id)
                    event.store()
                    for call in known:
                        call.settle()

        with failing_as(BatchUpdateFailed):
            retrying_deadlocks(hear)

    def settle(self) -> None:
        """Let all that was heard of this call have its effect, in whatever order it came. Under its batch's lock."""
        heard = Heard.of(WebhookEvent.objects.filter(agency=self.agency_id, ultravox_call_id=self.ultravox_call_id))
        changes: dict[str, Any] = {name: value for name, value in vars(heard).items() if value is not None}
        if not changes:
            return
        try:
            with transaction.atomic():
                Call.objects.filter(pk=self.pk).update(**changes, updated_at=TransactionNow())
        except (DataError, IntegrityError) as refused:
            # A table that was made for other words. How the call went counts all the same.
            why = type(refused).__name__
            logger.error("call=%s: calls does not take what was heard: %s", self.ultravox_call_id, why)
        if heard.ended_at is None or self.contact_id is None:
            return
        of_it = CampaignContact.objects.filter(pk=self.contact_id, call_id=self.pk, status=ContactStatus.IN_PROGRESS)
        attempt = self.metadata.get("attempt") if isinstance(self.metadata, dict) else None
        if isinstance(attempt, int):
            # Another service that claims anew may leave the call of the attempt before.
            of_it = of_it.filter(attempts__lte=attempt)
        contact = of_it.first()
        if contact is None:
            return
        try:
            if heard.outcome == Outcome.ANSWERED:
                contact.finish(outcome=heard.outcome, duration_seconds=heard.duration_seconds)
            else:
                contact.fail(outcome=heard.outcome)
        except BatchNotFound:
            # Another service calls people without a batch, or has deleted it meanwhile: nothing waits for this call.
            logger.warning("call=%s: contact=%s has no batch", self.ultravox_call_id, contact.pk)


def lock_call(call_id: str) -> None:
    """
    Wait for whoever records this call, or hears of it, at this moment, until the transaction ends.

    Otherwise each of two could miss what the other has not yet committed.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"call {call_id}"])
