"""QuerySets of batches and contacts. Filters by status are defined here and nowhere else."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection, models
from django.db.models.functions import Cast, Coalesce, Least, Now
from django.db.models.lookups import GreaterThan, LessThanOrEqual
from uuid_utils.compat import uuid7

from calls.audit import Actor, Source
from calls.database.sql import UUID7
from calls.database.transactions import database_errors_as, is_connection_lost, transaction_with_timeouts
from calls.exceptions import (
    BatchFinished,
    BatchNotFound,
    BatchUpdateFailed,
    CallsError,
    DatabaseFailed,
)
from calls.inputs import NewContact
from calls.models.agency import AgencyUser
from calls.models.campaign import AgentMapping, Campaign
from calls.models.results import CancelResult
from calls.roles import is_client_role
from calls.statuses import DIALABLE, FINAL, STARTABLE, BatchStatus, ContactStatus, Outcome, skip_note

if TYPE_CHECKING:
    from calls.models import CallBatch, CampaignContact

logger = logging.getLogger(__name__)

# After so many lost connections in a row, the server counts as unreachable.
MAX_CONNECTION_LOSSES = 2

# Two SQL expressions. The first is the contact's batch if the contact was ever claimed, the second if its call is in
# progress; otherwise both are NULL. Each has an index. A query by the expression instead of the batch leaves the
# planner only that index, so stale statistics of a table that has just grown cannot mislead it.
BATCH_IF_ATTEMPTED = models.Case(
    models.When(last_attempt_at__isnull=False, then="batch"), output_field=models.UUIDField()
)
BATCH_IF_CALL_IN_PROGRESS = models.Case(
    models.When(last_attempt_at__isnull=False, outcome=None, then="batch"), output_field=models.UUIDField()
)

# The agency of a contact whose call is in progress, and otherwise NULL. A contact whose batch was
# deleted does not count, because nothing would end its call.
AGENCY_IF_CALL_IN_PROGRESS = models.Case(
    models.When(last_attempt_at__isnull=False, outcome=None, batch__isnull=False, then="agency"),
    output_field=models.UUIDField(),
)
# When a contact was last called. A contact that was never called comes before all others, so that one range of an index
# has every contact that may be called now.
LAST_CALLED = Coalesce(
    "last_attempt_at", models.Value(datetime.min.replace(tzinfo=UTC), output_field=models.DateTimeField())
)


_CONTACT_COLUMNS = ", ".join(NewContact.model_fields)
# Copies get created_at one microsecond apart, because contacts are ordered by it. A contact whose calls the provider
# never accepted counts as not called, whatever its attempts, unless an event proves that it was. The event's agency is
# compared as text to keep the planner from its index, by which it would read all events of the agency for each contact.
COPY_SKIPPED = f"""
    INSERT INTO campaign_contacts (id, agency_id, campaign_id, batch_id, status, created_at, {_CONTACT_COLUMNS})
    SELECT {UUID7}, %(agency)s, %(campaign)s, %(batch)s, '{ContactStatus.PENDING}',
        now() + row_number() OVER (ORDER BY created_at, id) * interval '1 microsecond', {_CONTACT_COLUMNS}
    FROM campaign_contacts AS contact
    WHERE batch_id = %(cancelled)s AND status = '{ContactStatus.SKIPPED}' AND outcome_notes = %(note)s
        AND do_not_call IS NOT TRUE AND call_id IS NULL
        AND ((COALESCE(attempts, 0) = 0 AND last_attempt_at IS NULL) OR outcome = '{Outcome.NOT_PLACED}')
        AND NOT EXISTS (SELECT FROM calls WHERE contact_id = contact.id)
        AND NOT EXISTS (
            SELECT FROM call_webhook_events AS event
            WHERE event.contact_id = contact.id AND event.ultravox_call_id <> ''
                AND event.agency_id::text = %(agency)s::text
        )
"""  # noqa: S608 - constants


def _row(*parts: models.F | models.Value) -> models.Func:
    """Return a SQL row value. PostgreSQL can look it up in an index, unlike two comparisons joined by OR."""
    return models.Func(*parts, template="(%(expressions)s)", output_field=models.TextField())


_POSITION = _row(models.F("created_at"), models.F("pk"))


def _position_of(contact: CampaignContact) -> models.Func:
    return _row(models.Value(contact.created_at), models.Value(contact.pk))


class CallBatchQuerySet(models.QuerySet["CallBatch"]):
    def for_agency(self, agency_id: UUID) -> CallBatchQuerySet:
        """Return the batches of one agency. A batch of another agency is not found."""
        return self.filter(agency_id=agency_id)

    def visible_to(self, user: AgencyUser) -> CallBatchQuerySet:
        """
        Return the batches that a user of the API may see. Any other batch is not found.

        A user with the role of a client sees the batches of the agency's campaigns for that client, and none if the
        user has no client. Every other user sees all batches of the agency.
        """
        if user.agency_id is None:
            return self.none()
        batches = self.for_agency(user.agency_id)
        if not is_client_role(user.role):
            return batches
        if user.client_id in (None, ""):
            return self.none()
        # As text, because the two columns of an adopted database may have different types.
        client = Cast("client_id", models.TextField())
        campaigns = Campaign.objects.filter(agency_id=user.agency_id).alias(client=client)
        return batches.filter(campaign__in=campaigns.filter(client=str(user.client_id)))

    def cancellable(self) -> CallBatchQuerySet:
        """Return batches that can be cancelled, including those that another service left without a status."""
        return self.filter(~models.Q(status__in=FINAL) | models.Q(status=None))

    def due(self) -> CallBatchQuerySet:
        """Return batches to dial now: their scheduled time and ``dial_after`` have passed."""
        now = Now()
        return self.filter(
            models.Q(scheduled_for=None) | models.Q(scheduled_for__lte=now),
            models.Q(dial_after=None) | models.Q(dial_after__lte=now),
            status__in=STARTABLE,
        )

    def cancel_all(
        self, *, actor: Actor, source: Source, reason: str | None = None
    ) -> Iterator[tuple[CallBatch, CancelResult | CallsError]]:
        """
        Cancel every batch of this queryset that can be cancelled, each by :meth:`CallBatch.cancel`.

        The batch with the latest activity comes first. Each is cancelled in a transaction of its own when the iterator
        reaches it. So after an interruption each batch is either cancelled or unchanged, and another call cancels the
        rest. A batch that has ended or was deleted meanwhile is left out. After two lost connections in a row, the
        remaining batches fail at once.

        :param reason: why, kept in the history of each batch.
        :returns: each batch with its result or its error.
        :raises BatchUpdateFailed: the batches could not be read; nothing was changed.
        """
        return self._for_each_cancellable(lambda batch: batch.cancel(actor=actor, source=source, reason=reason))

    def preview_cancel_all(self) -> Iterator[tuple[CallBatch, CancelResult | CallsError]]:
        """Return what :meth:`cancel_all` would do now. Nothing is written or locked."""
        return self._for_each_cancellable(lambda batch: batch.preview_cancel())

    def _for_each_cancellable(
        self, verb: Callable[[CallBatch], CancelResult]
    ) -> Iterator[tuple[CallBatch, CancelResult | CallsError]]:
        by_activity = self.cancellable().order_by(models.F("updated_at").desc(nulls_last=True), "-id")
        with database_errors_as(BatchUpdateFailed), transaction_with_timeouts():
            # No other column: an unreadable value must not prevent a cancel.
            batches = list(by_activity.only("agency_id", "status"))
        losses = 0
        for batch in batches:
            if losses < MAX_CONNECTION_LOSSES:
                outcome: CancelResult | CallsError
                try:
                    outcome = verb(batch)
                except CallsError as error:
                    outcome = error
                is_loss = isinstance(outcome, DatabaseFailed) and is_connection_lost(outcome)
                losses = losses + 1 if is_loss else 0
            if not isinstance(outcome, BatchFinished | BatchNotFound):
                yield batch, outcome

    def with_status(self, status: str) -> CallBatchQuerySet:
        """Return batches in the status that a client named, or none if there is no such status."""
        return self.filter(status=status) if status in BatchStatus else self.none()

    def newest_first(self) -> CallBatchQuerySet:
        return self.order_by("-created_at", "-id")

    def oldest_first(self) -> CallBatchQuerySet:
        return self.order_by("created_at", "id")

    def with_names(self) -> CallBatchQuerySet:
        """
        Add ``campaign_name`` and ``agent_name``.

        By subqueries, not by joins: a batch whose campaign was deleted is still listed.
        """
        campaigns = Campaign.objects.filter(pk=models.OuterRef("campaign_id"))
        agents = AgentMapping.objects.filter(pk=models.OuterRef("agent_mapping_id"))
        return self.annotate(
            campaign_name=models.Subquery(campaigns.values("name")),
            agent_name=models.Subquery(agents.values("ultravox_agent_name")),
        )

    def with_replacement(self, visible: CallBatchQuerySet | None = None) -> CallBatchQuerySet:
        """
        Add ``replacement_id``, the id of the batch that replaces the batch, or None.

        :param visible: the batches whose ids may be shown, by default all.
        """
        replacements = (self.model.objects if visible is None else visible).filter(replaces=models.OuterRef("pk"))
        return self.annotate(replacement_id=models.Subquery(replacements.values("pk")))

    def with_replaced(self, visible: CallBatchQuerySet) -> CallBatchQuerySet:
        """Add ``replaced_id``, the id of the batch that the batch replaces, or None if it is not in ``visible``."""
        replaced = visible.filter(pk=models.OuterRef("replaces_id"))
        return self.annotate(replaced_id=models.Subquery(replaced.values("pk")))

    def find(self, batch_id: UUID, *, failure: type[DatabaseFailed] = BatchUpdateFailed) -> CallBatch:
        """
        Return the batch with this id, with most columns deferred.

        :raises BatchNotFound: there is no such batch in this queryset.
        :raises failure: a database error or timeout. To a client that wants to change a batch, this is the same error
            as a failed update.
        """
        try:
            with database_errors_as(failure), transaction_with_timeouts():
                try:
                    return self.only("agency_id", "status").get(pk=batch_id)
                except self.model.DoesNotExist:
                    raise BatchNotFound from None
        except CallsError as refusal:
            # The verb that would log the refusal is never called.
            level = logging.ERROR if isinstance(refusal, DatabaseFailed) else logging.WARNING
            logger.log(level, "find batch=%s outcome=%s", batch_id, refusal.code)
            raise


class CampaignContactQuerySet(models.QuerySet["CampaignContact"]):
    def dialable(self) -> CampaignContactQuerySet:
        """Return contacts that were not called yet, or will be called again."""
        return self.filter(status__in=DIALABLE)

    def claimable(self, called_before: datetime | None = None) -> CampaignContactQuerySet:
        """
        Return dialable contacts whose last attempt, if any, was at least ``RETRY_PAUSE`` ago.

        A claim takes the first of them :meth:`in_call_order` that is not marked ``do_not_call`` and has attempts left
        (dialler/claims.py).

        :param called_before: leave out contacts that were called since then.
        """
        rested = Now() - timedelta(seconds=settings.RETRY_PAUSE)
        latest = rested if called_before is None else Least(rested, models.Value(called_before))
        return self.dialable().alias(last_called=LAST_CALLED).filter(last_called__lte=latest)

    def with_call_in_progress(
        self, batch: UUID | models.OuterRef | Collection[UUID] | None = None
    ) -> CampaignContactQuerySet:
        """
        Return claimed contacts whose call has not ended, of one batch, of some or of all. Fast for any number of them.

        A claim sets ``last_attempt_at`` and clears ``outcome``. A contact that another service claimed without doing
        so is not found.
        """
        claimed = self.alias(calling_in=BATCH_IF_CALL_IN_PROGRESS).filter(status=ContactStatus.IN_PROGRESS)
        if batch is None:
            return claimed.filter(calling_in__isnull=False)
        return (
            claimed.filter(calling_in__in=batch) if isinstance(batch, Collection) else claimed.filter(calling_in=batch)
        )

    def with_call_in_progress_of_agency(self, agency: UUID | models.OuterRef) -> CampaignContactQuerySet:
        """Return the contacts of an agency whose call has not ended, as in :meth:`with_call_in_progress`."""
        claimed = self.alias(calling_for=AGENCY_IF_CALL_IN_PROGRESS).filter(calling_for=agency)
        # The two conditions of the index, without which the planner cannot use it.
        return claimed.filter(last_attempt_at__isnull=False, outcome=None, status=ContactStatus.IN_PROGRESS)

    def with_free_number(self) -> CampaignContactQuerySet:
        """Return contacts whose number is not being called at the moment in any batch of their agency."""
        calls = self.model.objects.with_call_in_progress_of_agency(models.OuterRef("agency_id"))
        return self.filter(~models.Exists(calls.filter(phone_number=models.OuterRef("phone_number"))))

    def attempted(self, batch: UUID | models.OuterRef) -> CampaignContactQuerySet:
        """Return the contacts of a batch that were claimed at least once, whatever the outcome."""
        return self.alias(attempted_in=BATCH_IF_ATTEMPTED).filter(attempted_in=batch)

    def attempted_within(self, period: timedelta, batch: UUID | models.OuterRef) -> CampaignContactQuerySet:
        """Return the contacts of a batch that were claimed within the last ``period``, whatever the outcome."""
        return self.attempted(batch).filter(last_attempt_at__gt=Now() - period, last_attempt_at__lte=Now())

    def unfinished(self) -> CampaignContactQuerySet:
        """Return contacts that are dialable or in progress."""
        return self.filter(status__in=(*DIALABLE, ContactStatus.IN_PROGRESS))

    def with_status(self, status: str) -> CampaignContactQuerySet:
        """Return contacts in the status that a client named, or none if there is no such status."""
        return self.filter(status=status) if status in ContactStatus else self.none()

    def oldest_first(self) -> CampaignContactQuerySet:
        """Order by creation."""
        return self.order_by("created_at", "id")

    def up_to(self, contact: CampaignContact) -> CampaignContactQuerySet:
        """Return contacts created up to and including ``contact``."""
        return self.filter(LessThanOrEqual(_POSITION, _position_of(contact)))

    def after(self, contact: CampaignContact) -> CampaignContactQuerySet:
        """Return contacts created after ``contact``. Contacts without ``created_at`` are excluded."""
        return self.filter(GreaterThan(_POSITION, _position_of(contact)))

    def in_call_order(self) -> CampaignContactQuerySet:
        """
        Return contacts without ``completed_at`` in the order in which they are called. Fast for any number of them.

        A contact that was never called comes before one that was, in the order of creation. A contact that is to be
        called again comes behind the others, in the order of the last attempts.

        A contact that another service queued again without clearing ``completed_at`` is excluded. The dialler clears
        it when no other contact waits.
        """
        return self.filter(completed_at=None).order_by(LAST_CALLED, "created_at", "id")

    def bulk_insert(self, batch: CallBatch, contacts: Iterable[NewContact]) -> None:
        """
        Insert new contacts of ``batch`` in their order, by COPY. Only :meth:`CallBatch.add_contacts` calls this, under
        the batch's lock.

        Columns that are not named get the database's default.
        """
        fields = [field for field in NewContact.model_fields if field != "custom_data"]
        columns = ", ".join(["id", "agency_id", "campaign_id", "batch_id", "status", *fields, "custom_data"])
        values_of = attrgetter(*fields)
        shared = (batch.agency_id, batch.campaign_id, batch.pk, ContactStatus.PENDING.value)
        with (
            connection.wrap_database_errors,
            connection.cursor() as cursor,
            cursor.copy(f"COPY {self.model._meta.db_table} ({columns}) FROM STDIN") as rows,
        ):
            for contact in contacts:
                rows.write_row((uuid7(), *shared, *values_of(contact), json.dumps(contact.custom_data)))

    @staticmethod
    def copy_skipped(cancelled: CallBatch, batch: CallBatch) -> int:
        """
        Copy the contacts that the cancel of ``cancelled`` skipped to ``batch``, in their order.

        Contacts that were called, or must not be called, are left out. Only :meth:`CallBatch.replace` calls this.

        :returns: the number of contacts.
        """
        with connection.cursor() as cursor:
            cursor.execute(
                COPY_SKIPPED,
                {
                    "agency": batch.agency_id,
                    "campaign": batch.campaign_id,
                    "batch": batch.pk,
                    "cancelled": cancelled.pk,
                    "note": skip_note(BatchStatus.CANCELLED),
                },
            )
            return int(cursor.rowcount)

    def counters(self) -> dict[str, int]:
        """Count these contacts by status and return the values that their batch's counters should have."""
        statuses = {name: [name] for name in ("in_progress", "completed", "failed", "skipped")} | {"queued": DIALABLE}
        counts = {
            name: models.Count("pk", filter=models.Q(status__in=values)) for name, values in sorted(statuses.items())
        }
        return self.aggregate(total_contacts=models.Count("pk"), **counts)
