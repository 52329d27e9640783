"""One call that the provider accepted."""

from django.db import models

from calls.models.agency import Agency
from calls.models.base import BaseModel
from calls.models.batch import CallBatch
from calls.models.contact import CampaignContact


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
    status = models.TextField(default="initiated", db_default="initiated")
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
