"""What happened to a batch, and who did it."""

import pghistory
import pgtrigger
from django.db import models

from calls.models.batch import CallBatch


class CallBatchEvent(
    pghistory.create_event_model(  # type: ignore[misc]
        CallBatch,
        pghistory.InsertEvent("created", trigger_name="history_created"),
        # Counters move with every call; only a change of status is history.
        pghistory.UpdateEvent("status", trigger_name="history_status", condition=pgtrigger.AnyChange("status")),
        fields=[
            "status",
            "total_contacts",
            "queued",
            "in_progress",
            "completed",
            "failed",
            "skipped",
            "completed_at",
            "error_message",
        ],
        obj_field=pghistory.ObjForeignKey(related_name="events", db_index=False),
        context_field=pghistory.ContextJSONField(),
        context_id_field=None,
    )
):
    """
    One row for each batch made and each change of its status, whoever made it, kept for good.

    Written by a trigger, so a change by plain SQL is here as well. ``pgh_context`` says who it was when the change
    came through one of our doors: ``actor`` (``kind``, ``id``, ``label``), ``via`` and ``contacts_skipped``;
    otherwise it is null. Rows cannot be changed or deleted.
    """

    pgh_id = models.BigAutoField(primary_key=True)

    class Meta:
        db_table = "call_batch_events"
        indexes = [
            # For whoever reads the history of one batch, oldest first.
            models.Index(name="batch_event_of_batch", fields=["pgh_obj", "pgh_id"]),
        ]
        triggers = [pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete)]
