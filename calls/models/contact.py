"""One person to call in a batch."""

from __future__ import annotations

from django.db import models

from calls import guards
from calls.models.agency import Agency
from calls.models.base import BaseModel, EnumTextField
from calls.models.batch import CallBatch
from calls.models.campaign import Campaign
from calls.querysets import CampaignContactQuerySet
from calls.statuses import ContactStatus


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
    custom_data = models.JSONField(default=dict, db_default={}, blank=True)
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
            # For cancel, which skips a batch's contacts, and for whoever lists them. It names no column that cancel
            # writes, so cancel's update needs no new index entries (a heap-only update).
            models.Index(name="contact_of_batch", fields=["batch", "id"]),
            # For staff with a complaint, who look for the batch that calls a number.
            models.Index(name="contact_by_phone_number", fields=["phone_number"]),
        ]
        triggers = [guards.contact_batch_live, guards.contact_batch_live_insert]

    def __str__(self) -> str:
        return str(self.pk)
