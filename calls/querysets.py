"""The verbs of the call tables. Whoever asks for batches or contacts by status asks for them here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connection, models
from uuid_utils.compat import uuid7

from calls.db import bounded, failing_as
from calls.exceptions import BatchNotFound, BatchUpdateFailed
from calls.inputs import NewContact
from calls.models.campaign import AgentMapping, Campaign
from calls.statuses import DIALABLE, FINAL, BatchStatus, ContactStatus

if TYPE_CHECKING:
    from calls.models import CallBatch, CampaignContact  # noqa: F401 - named in the annotations below


class CallBatchQuerySet(models.QuerySet["CallBatch"]):
    def for_agency(self, agency_id: UUID) -> CallBatchQuerySet:
        """The batches of one agency. Another tenant's id is simply not found."""
        return self.filter(agency_id=agency_id)

    def cancellable(self) -> CallBatchQuerySet:
        """Batches that have not ended for good; another service may have left one without a status."""
        return self.filter(~models.Q(status__in=FINAL) | models.Q(status=None))

    def with_status(self, status: str) -> CallBatchQuerySet:
        """Batches in a status that somebody has named; none if it is no status."""
        return self.filter(status=status) if status in BatchStatus else self.none()

    def newest_first(self) -> CallBatchQuerySet:
        return self.order_by("-created_at", "-id")

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
        with failing_as(BatchUpdateFailed), bounded():
            try:
                return self.only("agency_id", "status").get(pk=batch_id)
            except self.model.DoesNotExist:
                raise BatchNotFound from None


class CampaignContactQuerySet(models.QuerySet["CampaignContact"]):
    def dialable(self) -> CampaignContactQuerySet:
        """Contacts not yet called, in whichever of the three waiting statuses."""
        return self.filter(status__in=DIALABLE)

    def claimable(self) -> CampaignContactQuerySet:
        """Contacts that may be called next."""
        # Another service may have left it empty.
        return self.dialable().filter(models.Q(do_not_call=False) | models.Q(do_not_call=None))

    def with_status(self, status: str) -> CampaignContactQuerySet:
        """Contacts in a status that somebody has named; none if it is no status."""
        return self.filter(status=status) if status in ContactStatus else self.none()

    def oldest_first(self) -> CampaignContactQuerySet:
        """In the order in which they came, which is also the one in which they are called."""
        return self.order_by("created_at", "id")

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
