"""The verbs of the call tables. Whoever asks for batches or contacts by status asks for them here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection, models
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan, LessThanOrEqual
from uuid_utils.compat import uuid7

from calls.database.transactions import bounded, failing_as
from calls.exceptions import BatchNotFound, BatchUpdateFailed, CallsError
from calls.inputs import NewContact
from calls.models.campaign import AgentMapping, Campaign
from calls.statuses import DIALABLE, FINAL, STARTABLE, BatchStatus, ContactStatus

if TYPE_CHECKING:
    from calls.models import CallBatch, CampaignContact

logger = logging.getLogger(__name__)

# The batch of a contact that has been claimed, and of one whose call has not come to its end; empty for all others.
# Whoever asks for these instead of the batch itself leaves the planner one index that serves, however wrong it may be
# about a table that has just grown.
ATTEMPTED_IN = models.Case(models.When(last_attempt_at__isnull=False, then="batch"), output_field=models.UUIDField())
UNDER_WAY_IN = models.Case(
    models.When(last_attempt_at__isnull=False, outcome=None, then="batch"), output_field=models.UUIDField()
)


def _place(*parts: models.F | models.Value) -> models.Func:
    """Where a contact stands among those that were created: compared as a whole, an index finds it at once."""
    return models.Func(*parts, template="(%(expressions)s)", output_field=models.TextField())


_PLACE = _place(models.F("created_at"), models.F("pk"))


def _place_of(contact: CampaignContact) -> models.Func:
    return _place(models.Value(contact.created_at), models.Value(contact.pk))


class CallBatchQuerySet(models.QuerySet["CallBatch"]):
    def for_agency(self, agency_id: UUID) -> CallBatchQuerySet:
        """The batches of one agency. Another tenant's id is simply not found."""
        return self.filter(agency_id=agency_id)

    def cancellable(self) -> CallBatchQuerySet:
        """Batches that have not ended for good; another service may have left one without a status."""
        return self.filter(~models.Q(status__in=FINAL) | models.Q(status=None))

    def due(self) -> CallBatchQuerySet:
        """Batches to be dialled now: their time has come, and the provider has not asked to wait."""
        now = Now()
        return self.filter(
            models.Q(scheduled_for=None) | models.Q(scheduled_for__lte=now),
            models.Q(dial_after=None) | models.Q(dial_after__lte=now),
            status__in=STARTABLE,
        )

    def with_status(self, status: str) -> CallBatchQuerySet:
        """Batches in a status that somebody has named; none if it is no status."""
        return self.filter(status=status) if status in BatchStatus else self.none()

    def newest_first(self) -> CallBatchQuerySet:
        return self.order_by("-created_at", "-id")

    def oldest_first(self) -> CallBatchQuerySet:
        return self.order_by("created_at", "id")

    def with_names(self) -> CallBatchQuerySet:
        """
        With ``campaign_name`` and ``agent_name``.

        Looked up rather than joined: a batch is not missed because something that it belongs to is.
        """
        campaigns = Campaign.objects.filter(pk=models.OuterRef("campaign_id"))
        agents = AgentMapping.objects.filter(pk=models.OuterRef("agent_mapping_id"))
        return self.annotate(
            campaign_name=models.Subquery(campaigns.values("name")),
            agent_name=models.Subquery(agents.values("ultravox_agent_name")),
        )

    def find(self, batch_id: UUID) -> CallBatch:
        """
        The batch with this id among these, other columns deferred.

        :raises BatchNotFound: there is none.
        :raises BatchUpdateFailed: the database could not say within 10 seconds.
        """
        try:
            with failing_as(BatchUpdateFailed), bounded():
                try:
                    return self.only("agency_id", "status").get(pk=batch_id)
                except self.model.DoesNotExist:
                    raise BatchNotFound from None
        except CallsError as refusal:
            # What was to be done with it does not begin, and so says nothing.
            logger.warning("find batch=%s outcome=%s", batch_id, refusal.code)
            raise


class CampaignContactQuerySet(models.QuerySet["CampaignContact"]):
    def dialable(self) -> CampaignContactQuerySet:
        """Contacts not yet called, in whichever of the three waiting statuses."""
        return self.filter(status__in=DIALABLE)

    def claimable(self) -> CampaignContactQuerySet:
        """Contacts whose turn may come: not yet called, or not reached and left alone for ``RETRY_PAUSE`` since."""
        rested = models.Q(last_attempt_at__lte=Now() - timedelta(seconds=settings.RETRY_PAUSE))
        # A clock that is not ours may have said a time to come, or none that ever comes.
        nonsense = models.Q(last_attempt_at__gt=Now())
        return self.dialable().filter(models.Q(last_attempt_at=None) | rested | nonsense)

    def under_way(self, batch: UUID | None = None) -> CampaignContactQuerySet:
        """
        Contacts that are claimed, and whose call has not come to its end: of a batch, or of all. Cheap for any number.

        A claim sets ``last_attempt_at`` and empties ``outcome``. One that another service has claimed otherwise is
        missed here.
        """
        claimed = self.alias(under_way_in=UNDER_WAY_IN).filter(status=ContactStatus.IN_PROGRESS)
        return claimed.filter(under_way_in__isnull=False) if batch is None else claimed.filter(under_way_in=batch)

    def attempted_within(self, period: timedelta, batch: UUID) -> CampaignContactQuerySet:
        """Contacts of a batch that were claimed lately, whatever has come of it."""
        lately = self.filter(last_attempt_at__gt=Now() - period, last_attempt_at__lte=Now())
        return lately.alias(attempted_in=ATTEMPTED_IN).filter(attempted_in=batch)

    def not_over(self) -> CampaignContactQuerySet:
        """Contacts that are waiting or being called."""
        return self.filter(status__in=(*DIALABLE, ContactStatus.IN_PROGRESS))

    def with_status(self, status: str) -> CampaignContactQuerySet:
        """Contacts in a status that somebody has named; none if it is no status."""
        return self.filter(status=status) if status in ContactStatus else self.none()

    def oldest_first(self) -> CampaignContactQuerySet:
        """In the order in which they came."""
        return self.order_by("created_at", "id")

    def up_to(self, contact: CampaignContact) -> CampaignContactQuerySet:
        """Those that came before ``contact``, and itself."""
        return self.filter(LessThanOrEqual(_PLACE, _place_of(contact)))

    def after(self, contact: CampaignContact) -> CampaignContactQuerySet:
        """Those that came after ``contact``; none of whom nobody knows when."""
        return self.filter(GreaterThan(_PLACE, _place_of(contact)))

    def in_turn(self) -> CampaignContactQuerySet:
        """
        Those that are not over, in the order in which they are called. Cheap however many have been called.

        One that another service has queued again and left ``completed_at`` as it was comes last, when
        :meth:`CallBatch.begin_pass` finds nobody else.
        """
        return self.filter(completed_at=None).order_by("completed_at", "created_at", "id")

    def copy(self, batch: CallBatch, contacts: Iterable[NewContact]) -> None:
        """
        Store new contacts of ``batch``, in their order, by COPY: for :meth:`CallBatch.add_contacts` alone.

        Their ids are made here, so nothing is read back. What is not named has the database's default.
        """
        fields = [field for field in NewContact.model_fields if field != "custom_data"]
        columns = ", ".join(["id", "agency_id", "campaign_id", "batch_id", "status", *fields, "custom_data"])
        values_of = attrgetter(*fields)
        same = (batch.agency_id, batch.campaign_id, batch.pk, ContactStatus.PENDING.value)
        with (
            connection.wrap_database_errors,
            connection.cursor() as cursor,
            cursor.copy(f"COPY {self.model._meta.db_table} ({columns}) FROM STDIN") as rows,
        ):
            for contact in contacts:
                rows.write_row((uuid7(), *same, *values_of(contact), json.dumps(contact.custom_data)))

    def counters(self) -> dict[str, int]:
        """What the counters of a batch with these contacts have to say, by the counters' names."""
        statuses = {name: [name] for name in ("in_progress", "completed", "failed", "skipped")} | {"queued": DIALABLE}
        counts = {
            name: models.Count("pk", filter=models.Q(status__in=of_it)) for name, of_it in sorted(statuses.items())
        }
        return self.aggregate(total_contacts=models.Count("pk"), **counts)
