"""The histories of batches and agencies."""

import pghistory
import pgtrigger
from django.db import models

from calls.models.agency import Agency
from calls.models.batch import CallBatch


class CallBatchEvent(
    pghistory.create_event_model(  # type: ignore[misc]
        CallBatch,
        pghistory.InsertEvent("created", trigger_name="history_created"),
        # Only changes of status are recorded. Counters change with every call.
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
    One row for the creation of a batch and for each change of its status. Rows cannot be changed or deleted.

    A trigger writes them, so changes by other services are included. ``pgh_context`` has ``via`` (the source),
    ``actor`` (``kind``, ``id``, ``label``, and ``client_id`` if the user acted through a third-party OAuth client; not
    for the dialler), for a cancel ``contacts_skipped``, and ``reason`` for a cancel, a pause, and a pause by the
    dialler, if there is one. It is NULL for changes by other services.
    """

    pgh_id = models.BigAutoField(primary_key=True)

    class Meta:
        db_table = "call_batch_events"
        indexes = [
            # For the history of one batch, oldest first.
            models.Index(name="batch_event_of_batch", fields=["pgh_obj", "pgh_id"]),
        ]
        triggers = [pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete)]


class AgencyEvent(
    pghistory.create_event_model(  # type: ignore[misc]
        Agency,
        pghistory.ManualEvent("held"),
        pghistory.ManualEvent("released"),
        fields=["held_at"],
        obj_field=pghistory.ObjForeignKey(related_name="events", db_index=False),
        context_field=pghistory.ContextJSONField(),
        context_id_field=None,
    )
):
    """
    One row each time an agency is put on hold or released. Rows cannot be changed or deleted.

    A repeated hold adds one only if it gives a reason, and a repeated release adds none. ``Agency.hold`` and
    ``Agency.release`` write it, and not a trigger: the table of agencies may belong to another service. ``pgh_context``
    is that of :class:`CallBatchEvent`.
    """

    pgh_id = models.BigAutoField(primary_key=True)

    class Meta:
        db_table = "agency_events"
        indexes = [
            # For the history of one agency, newest first.
            models.Index(name="agency_event_of_agency", fields=["pgh_obj", "pgh_id"]),
        ]
        triggers = [pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete)]
