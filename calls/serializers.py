"""What the functions read and answer."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers

from calls.exceptions import BatchIdInvalid, BatchIdRequired
from calls.identifiers import parse_uuid
from calls.models import CancelResult
from calls.statuses import BatchStatus


class BatchIdSerializer(serializers.Serializer[Any]):
    """The body ``{"batch_id": "<uuid>"}``. Other keys are ignored."""

    batch_id = serializers.UUIDField()

    def run_validation(self, data: Any = serializers.empty) -> dict[str, UUID]:
        """
        The id, as a UUID.

        :raises BatchIdRequired: it is absent, null or ``""``, or the body is no object.
        :raises BatchIdInvalid: it is anything else than a UUID.
        """
        value = data.get("batch_id") if isinstance(data, dict) else None
        if value is None or value == "":
            raise BatchIdRequired
        try:
            return {"batch_id": parse_uuid(value)}
        except ValueError:
            raise BatchIdInvalid from None


class CancelledBatchSerializer(serializers.Serializer[CancelResult]):
    """The answer to a cancel, exactly these five keys."""

    success = serializers.BooleanField(default=True)
    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=[BatchStatus.CANCELLED])
    contacts_skipped = serializers.IntegerField(help_text="How many contacts this cancel skipped; 0 is a valid answer.")
    message = serializers.CharField(
        default="Batch cancelled. In-progress calls will complete but no new calls will be initiated."
    )
