"""The verbs of the call tables. Whoever asks for batches or contacts by status asks for them here."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from django.db import models

from calls.db import as_update_failed, bounded
from calls.exceptions import BatchNotFound
from calls.statuses import DIALABLE, FINAL

if TYPE_CHECKING:
    from calls.models import CallBatch, CampaignContact  # noqa: F401 - named in the annotations below


class CallBatchQuerySet(models.QuerySet["CallBatch"]):
    def for_agency(self, agency_id: UUID) -> CallBatchQuerySet:
        """The batches of one agency. Another tenant's id is simply not found."""
        return self.filter(agency_id=agency_id)

    def cancellable(self) -> CallBatchQuerySet:
        """Batches that have not ended for good."""
        return self.exclude(status__in=FINAL)

    def find(self, batch_id: UUID) -> CallBatch:
        """
        The batch with this id among these, other columns deferred.

        :raises BatchNotFound: there is none.
        :raises BatchUpdateFailed: the database could not say within 10 seconds.
        """
        with as_update_failed(), bounded():
            try:
                return self.only("agency_id", "status").get(pk=batch_id)
            except self.model.DoesNotExist:
                raise BatchNotFound from None


class CampaignContactQuerySet(models.QuerySet["CampaignContact"]):
    def dialable(self) -> CampaignContactQuerySet:
        """Contacts not yet called, in whichever of the three waiting statuses."""
        return self.filter(status__in=DIALABLE)

    def counters(self) -> dict[str, int]:
        """What the counters of a batch with these contacts have to say, by the counters' names."""
        statuses = {name: [name] for name in ("in_progress", "completed", "failed", "skipped")} | {"queued": DIALABLE}
        counts = {
            name: models.Count("pk", filter=models.Q(status__in=of_it)) for name, of_it in sorted(statuses.items())
        }
        return self.aggregate(total_contacts=models.Count("pk"), **counts)
