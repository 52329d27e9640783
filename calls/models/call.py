"""Calls that the provider accepted, and the effect of the provider's events."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.postgres.functions import TransactionNow
from django.db import DataError, IntegrityError, ProgrammingError, models, transaction

from calls.database.additional_columns import insert_with_additional_columns
from calls.database.transactions import database_errors_as, lock_name, retry_on_deadlock, transaction_with_timeouts
from calls.exceptions import BatchNotFound, BatchUpdateFailed
from calls.models.agency import Agency
from calls.models.base import BaseModel
from calls.models.batch import CallBatch
from calls.models.contact import CampaignContact
from calls.models.querysets import CampaignContactQuerySet
from calls.models.webhook_event import CallState, WebhookEvent
from calls.statuses import CallStatus, ContactStatus, Outcome

logger = logging.getLogger(__name__)

# The largest difference to tolerate between the provider's clock and that of another service.
CLOCK_DIFFERENCE = timedelta(seconds=5)
# How long before the claim another service may store the call of an attempt. Two attempts are further apart.
STORED_BEFORE_CLAIM = timedelta(minutes=1)
_ANY_ID = UUID(int=0)


class Call(BaseModel):
    """A call, identified by the id that the provider gave it."""

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

    # An annotation of record_event().
    batch_of_contact: UUID | None

    class Meta:
        db_table = "calls"
        indexes = [
            # For the sweep, which looks for a call that another service stored with its contact.
            models.Index(name="call_of_contact", fields=["contact"]),
        ]

    def __str__(self) -> str:
        return self.ultravox_call_id

    @classmethod
    def can_be_recorded(cls) -> bool:
        """Return whether the table has the app's columns. If not, no call may be placed, and the reason is logged."""
        try:
            with transaction.atomic():
                cls.objects.filter(pk=_ANY_ID, agency=_ANY_ID, batch=_ANY_ID, contact=_ANY_ID).first()
        except ProgrammingError as error:
            sqlstate = getattr(error.__cause__, "sqlstate", None)
            logger.error("columns of the table calls are missing or of other types: no call is placed (%s)", sqlstate)
            return False
        return True

    @classmethod
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_placed(cls, contact: CampaignContact, provider_call_id: str, *, caller_id: str) -> bool:
        """
        Record that the provider accepted the call of a claimed contact, and apply the events that arrived before.

        :param provider_call_id: the provider's id of the call.
        :param caller_id: the number that the call is made from, in E.164.
        :returns: False if the call belongs to another contact or agency already; nothing was changed.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with CallBatch(pk=contact.batch_id).locked() as batch:
            lock_call(provider_call_id)
            placed = Call(
                ultravox_call_id=provider_call_id,
                agency_id=batch.agency_id,
                batch=batch,
                contact=contact,
                from_number=caller_id,
                to_number=contact.phone_number,
                metadata={"attempt": contact.attempts},
            )
            if not insert_with_additional_columns(placed, batch_id=batch.pk):
                Call.objects.bulk_create([placed], ignore_conflicts=True)
            call = cls.objects.get(ultravox_call_id=provider_call_id)
            if (
                call.contact_id is None
                and call.agency_id == batch.agency_id
                and not call._contacts_in_progress.exclude(pk=contact.pk).exists()
            ):
                # Another service stored the call from an event, without its contact.
                call.batch, call.contact = batch, contact
                if call.metadata is None:
                    call.metadata = {}
                if isinstance(call.metadata, dict):
                    call.metadata |= {"attempt": contact.attempts}
                call.save(update_fields=["batch", "contact", "metadata", "updated_at"])
            if call.contact_id != contact.pk:
                logger.error("call=%s belongs to another contact, not contact=%s", provider_call_id, contact.pk)
                return False
            if not contact.in_this_attempt().update(call_id=call.pk, outcome_notes=None, updated_at=TransactionNow()):
                logger.warning(
                    "call=%s came late: contact=%s is no longer in this attempt", provider_call_id, contact.pk
                )
            call.apply_events(batch)
            return True

    @classmethod
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def link_stored_call(cls, contact: CampaignContact) -> bool:
        """
        Link a claimed contact to the call that another service has stored for it since the claim, if there is one.

        The events of the call that are stored already take effect.

        :returns: whether there is such a call.
        :raises BatchNotFound: the batch is gone.
        :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
        """
        with CallBatch(pk=contact.batch_id).locked() as batch:
            stored = cls.objects.filter(contact=contact.pk, agency=batch.agency_id)
            newest_first = models.F("created_at").desc(nulls_last=True)
            calls = (call for call in stored.order_by(newest_first) if call._attempt is None)
            call = next((call for call in calls if not call.precedes_claim_of(contact)), None)
            if call is None:
                return False
            lock_call(call.ultravox_call_id)
            unchanged = contact.in_this_attempt().filter(call_id=contact.call_id)
            unchanged.update(call_id=call.pk, updated_at=TransactionNow())
            call.apply_events(batch)
            return True

    @classmethod
    @database_errors_as(BatchUpdateFailed)
    @retry_on_deadlock
    def record_event(cls, event: WebhookEvent) -> None:
        """
        Store a provider's event and apply it, all or nothing. An event that was delivered before has no effect.

        The event belongs to the stored call with its agency and provider's id. The call belongs to the contact that
        its row names or, if it names none, to the contact in progress whose ``call_id`` refers to the call. The event's
        metadata is not used. An event may arrive before its call is stored. If this app stores the call,
        :meth:`record_placed` applies the event. If another service does, the next event or the sweep applies it.

        :raises BatchUpdateFailed: a database error or timeout; nothing was stored.
        """
        calls = cls.objects.annotate(batch_of_contact=models.F("contact__batch_id"))
        known = calls.filter(ultravox_call_id=event.ultravox_call_id or None, agency=event.agency_id)
        with transaction_with_timeouts():
            call = known.first()
            with _lock_batch(call._find_batch_id() if call else None) as batch:
                lock_call(event.ultravox_call_id)
                event.store()
                if call is None or call.contact_id is None:
                    # The call may have been recorded meanwhile.
                    call = known.first()
                if call is not None:
                    if call.contact_id is None and batch is not None:
                        call._link_contact(batch)
                    call.apply_events(batch)

    def apply_events(self, batch: CallBatch | None) -> None:
        """
        Update this call and its contact from all stored events, in whatever order they arrived.

        :param batch: the batch of the call's contact, which the caller has locked, or None if there is none.
        """
        events = WebhookEvent.objects.filter(agency=self.agency_id, ultravox_call_id=self.ultravox_call_id)
        state = CallState.from_events(events)
        changes = state.columns
        if not changes:
            return
        try:
            with transaction.atomic():
                Call.objects.filter(pk=self.pk).update(**changes, updated_at=TransactionNow())
        except (DataError, IntegrityError) as error:
            # A constraint of an adopted table rejects a value. The contact's outcome is still recorded.
            name = type(error).__name__
            logger.error("call=%s: the table calls rejects a value of its events: %s", self.ultravox_call_id, name)
        if state.ended_at is not None:
            self._end_attempt(state, state.ended_at, batch)

    def _end_attempt(self, state: CallState, ended_at: datetime, batch: CallBatch | None) -> None:
        contact = self._contact_of_attempt(ended_at)
        # An invalid number may be reported by call.billed alone, after call.ended has queued the contact again.
        if contact is None or (contact.status != ContactStatus.IN_PROGRESS and not state.is_number_invalid):
            return
        if contact.call_id != self.pk:
            # An event after the end may be about this call too.
            contact.in_this_attempt().update(call_id=self.pk)
            contact.call_id = self.pk
        try:
            if state.is_number_invalid:
                contact.record_invalid_number(outcome=state.outcome, locked=batch)
            elif state.outcome == Outcome.ANSWERED:
                contact.record_answered(outcome=state.outcome, duration_seconds=state.duration_seconds, locked=batch)
            else:
                contact.record_failed(outcome=state.outcome, locked=batch)
        except BatchNotFound:
            # Another service called a contact without a batch, or has deleted the batch. There is no batch to update.
            logger.warning("call=%s: contact=%s has no batch", self.ultravox_call_id, contact.pk)

    def _contact_of_attempt(self, ended_at: datetime) -> CampaignContact | None:
        """Return the call's contact, if it was not claimed again since this call."""
        if self.contact_id is None:
            return None
        # Another service may have written the contact of another agency into this row.
        is_of_agency = models.Q(agency=self.agency_id) | models.Q(batch__agency=self.agency_id)
        contact = CampaignContact.objects.filter(is_of_agency, pk=self.contact_id).first()
        if contact is None:
            return None
        is_linked = contact.call_id == self.pk
        if self._attempt is not None:
            # Another service that claims the contact again may leave this call's id in it.
            return contact if is_linked and (contact.attempts or 0) <= self._attempt else None
        # Another service placed the call. It may have written the contact only into this row.
        if contact.last_attempt_at is not None and ended_at < contact.last_attempt_at - CLOCK_DIFFERENCE:
            return None
        if is_linked:
            return contact
        if contact.status != ContactStatus.IN_PROGRESS or self.precedes_claim_of(contact):
            return None
        # It may have left the id of an earlier call in the contact.
        linked = Call.objects.filter(pk=contact.call_id).first() if contact.call_id else None
        return contact if linked is None or linked.precedes_claim_of(contact) else None

    @property
    def _attempt(self) -> int | None:
        """The number of the attempt if this app placed the call, and None if another service did."""
        attempt = self.metadata.get("attempt") if isinstance(self.metadata, dict) else None
        return attempt if isinstance(attempt, int) else None

    def precedes_claim_of(self, contact: CampaignContact) -> bool:
        """Return whether the call was stored, or has ended, before the contact was claimed."""
        claimed_at = contact.last_attempt_at
        if claimed_at is None:
            return False
        was_stored = self.created_at is not None and self.created_at < claimed_at - STORED_BEFORE_CLAIM
        return was_stored or (self.ended_at is not None and self.ended_at < claimed_at - CLOCK_DIFFERENCE)

    @property
    def _contacts_in_progress(self) -> CampaignContactQuerySet:
        """
        The contacts in progress whose ``call_id`` refers to this call.

        Another service may store the link only there, and not in ``calls.contact``. A contact of another agency does
        not count.
        """
        return CampaignContact.objects.with_call_in_progress_of_agency(self.agency_id).filter(call_id=self.pk)

    def _find_contact(self) -> CampaignContact | None:
        """Return the contact in progress whose ``call_id`` refers to this call. If there are several, log it."""
        contacts = list(self._contacts_in_progress[:2])
        if len(contacts) > 1:
            # After a day the sweep gives one of them up, so its slot becomes free.
            logger.error("call=%s: several contacts refer to it, so none of them is changed", self.ultravox_call_id)
        return contacts[0] if len(contacts) == 1 else None

    def _find_batch_id(self) -> UUID | None:
        """
        Return the id of the batch to lock: that of the call's contact, or else the one in the call's row.

        Call it on an instance with ``batch_of_contact``.
        """
        if self.contact_id is not None:
            return self.batch_of_contact or self.batch_id
        contact = self._find_contact()
        return contact.batch_id if contact else self.batch_id

    def _link_contact(self, batch: CallBatch) -> None:
        """
        Write the contact whose ``call_id`` refers to this call and, if the row has none, its batch into this row.

        Later events then find the contact although it is no longer in progress. A contact of another batch is ignored:
        it was moved, or linked, after the batch was locked.
        """
        contact = self._find_contact()
        if contact is None or contact.batch_id != batch.pk:
            return
        unlinked = Call.objects.filter(pk=self.pk, contact=None)
        if unlinked.update(contact=contact, batch=self.batch_id or batch.pk, updated_at=TransactionNow()):
            self.contact = contact


@contextmanager
def _lock_batch(batch_id: UUID | None) -> Iterator[CallBatch | None]:
    """Lock the batch and yield it, or yield None if there is none. Another service may have deleted it."""
    with ExitStack() as stack:
        batch = None
        if batch_id is not None:
            try:
                batch = stack.enter_context(CallBatch(pk=batch_id).locked())
            except BatchNotFound:
                logger.warning("batch=%s of a call does not exist", batch_id)
        yield batch


def lock_call(provider_call_id: str) -> None:
    """
    Serialize transactions about one call, until the end of the transaction.

    Otherwise two transactions, one recording the call and one storing its event, would each miss the other's
    uncommitted row.
    """
    lock_name(f"call {provider_call_id}")
