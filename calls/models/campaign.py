"""What a batch refers to: campaigns, voice agents and caller ids."""

from __future__ import annotations

from uuid import UUID

from django.db import models

from calls.models.agency import Agency
from calls.models.base import BaseModel
from calls.models.fields import ForeignIdField


class Campaign(BaseModel):
    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="campaigns", db_index=False)
    name = models.TextField()
    # The client of the agency that the campaign is for. See CallBatchQuerySet.visible_to.
    client_id = ForeignIdField(null=True, blank=True)

    class Meta:
        db_table = "campaigns"

    def __str__(self) -> str:
        return self.name or str(self.pk)


class AgentMapping(BaseModel):
    """An agency's voice agent and its id at the provider."""

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="agent_mappings", db_index=False)
    ultravox_agent_id = models.TextField()
    ultravox_agent_name = models.TextField(null=True, blank=True)
    first_speaker_text = models.TextField(null=True, blank=True)

    class Meta:
        db_table = "agent_mappings"

    def __str__(self) -> str:
        return self.ultravox_agent_name or self.ultravox_agent_id or str(self.pk)


class AgencyPhoneNumberQuerySet(models.QuerySet["AgencyPhoneNumber"]):
    def is_active(self, agency_id: UUID, number: str) -> bool:
        """Return whether the agency may call from this number now."""
        # Compared in Python: in an adopted table the status may be an enum without this label.
        found = self.filter(agency=agency_id, phone_number=number, is_active=True).values_list("status", flat=True)
        return "active" in found


class AgencyPhoneNumber(BaseModel):
    """A number in E.164 that an agency may call from."""

    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, related_name="phone_numbers", db_index=False)
    phone_number = models.TextField()
    status = models.TextField(default="active", db_default="active")
    is_active = models.BooleanField(default=True, db_default=True)

    objects = AgencyPhoneNumberQuerySet.as_manager()

    class Meta:
        db_table = "agency_phone_numbers"

    def __str__(self) -> str:
        return self.phone_number or str(self.pk)
