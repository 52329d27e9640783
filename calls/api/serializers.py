"""Serializers of the answers, and of a ``batch_id``. The body of calls-batch-create is parsed by ``calls.inputs``."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers

from calls.dialler.passes import PassResult
from calls.dialler.waiting import waiting_for
from calls.exceptions import FieldInvalid, FieldRequired
from calls.inputs import MAX_REASON, parse_reason
from calls.models import CallBatch, CampaignContact, CancelResult, CreateResult, PauseResult
from calls.parsing import parse_uuid
from calls.statuses import BatchStatus, Mode


class BatchIdSerializer(serializers.Serializer[Any]):
    """The id of a batch. Other keys are ignored."""

    batch_id = serializers.UUIDField()

    def run_validation(self, data: Any = serializers.empty) -> dict[str, UUID]:
        """
        Return ``{"batch_id": <UUID>}``.

        :raises FieldRequired: the id is absent, null or ``""``, or ``data`` is not an object.
        :raises FieldInvalid: the id is not a UUID.
        """
        value = data.get("batch_id") if isinstance(data, dict) else None
        if value is None or value == "":
            raise FieldRequired("batch_id")
        return {"batch_id": validate_uuid("batch_id", value)}


class ReasonField(serializers.CharField):
    """The reason for stopping calls, kept in the history."""

    def __init__(self) -> None:
        super().__init__(
            required=False,
            allow_null=True,
            max_length=MAX_REASON,
            help_text="Why the calls are stopped. Kept in the history and shown to operators.",
        )


class PauseRequestSerializer(BatchIdSerializer):
    """The batch to pause, and why. Other keys are ignored."""

    reason = ReasonField()

    def run_validation(self, data: Any = serializers.empty) -> dict[str, Any]:
        """
        Return ``{"batch_id": <UUID>, "reason": <text or None>}``.

        :raises CallsError: FieldRequired or FieldInvalid.
        """
        return {**super().run_validation(data), "reason": parse_reason(data)}


class CancelRequestSerializer(PauseRequestSerializer):
    """The batch to cancel, why, and whether this is only a preview. Other keys are ignored."""

    dry_run = serializers.BooleanField(required=False, help_text="Change nothing, and return what a cancel would do.")

    def run_validation(self, data: Any = serializers.empty) -> dict[str, Any]:
        """
        Return ``{"batch_id": <UUID>, "reason": <text or None>, "dry_run": <bool>}``.

        :raises CallsError: FieldRequired or FieldInvalid.
        """
        return {**super().run_validation(data), "dry_run": validate_dry_run(data)}


def validate_dry_run(data: dict[str, Any]) -> bool:
    """:raises FieldInvalid: ``dry_run`` is present but not a boolean."""
    value = data.get("dry_run", False)
    if not isinstance(value, bool):
        raise FieldInvalid("dry_run", "must be true or false")
    return value


def validate_uuid(field: str, value: Any) -> UUID:
    """:raises FieldInvalid: ``value`` is not a UUID."""
    try:
        return parse_uuid(value)
    except ValueError:
        raise FieldInvalid(field, "must be a valid UUID") from None


class CancelledBatchSerializer(serializers.Serializer[CancelResult]):
    """The answer to a cancel: exactly these five keys."""

    success = serializers.BooleanField(default=True)
    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=[BatchStatus.CANCELLED])
    contacts_skipped = serializers.IntegerField(help_text="How many contacts this cancel skipped. 0 is a valid answer.")
    message = serializers.CharField(
        default="Batch cancelled. In-progress calls will complete but no new calls will be initiated."
    )


class CancelPreviewSerializer(serializers.Serializer[CancelResult]):
    """The answer to a cancel with ``dry_run``. Nothing was changed."""

    success = serializers.BooleanField(default=True)
    dry_run = serializers.BooleanField(default=True)
    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=BatchStatus.choices, help_text="The batch's current status.")
    contacts_to_skip = serializers.IntegerField(source="contacts_skipped")
    calls_in_progress = serializers.IntegerField(source="in_progress")
    message = serializers.CharField(default="Nothing was changed. These numbers show what a cancel would do.")


class PausedBatchSerializer(serializers.Serializer[PauseResult]):
    """The answer to a pause."""

    success = serializers.BooleanField(default=True)
    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=[BatchStatus.PAUSED])
    paused_at = serializers.DateTimeField()
    message = serializers.CharField(
        default="Batch paused. In-progress calls will complete but no new calls will be initiated until it is resumed."
    )


class ResumedBatchSerializer(serializers.Serializer[PauseResult]):
    """The answer to a resume."""

    success = serializers.BooleanField(default=True)
    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=[BatchStatus.SCHEDULED, BatchStatus.PROCESSING])
    message = serializers.CharField(default="Batch resumed. Its remaining contacts will be called.")


class CreatedBatchSerializer(serializers.Serializer[CreateResult]):
    """The answer to a create."""

    batch_id = serializers.UUIDField(source="batch.id")
    status = serializers.ChoiceField(choices=[BatchStatus.PENDING, BatchStatus.SCHEDULED], source="batch.status")
    total_contacts = serializers.IntegerField(source="batch.total_contacts", help_text="Without duplicates.")
    duplicates_removed = serializers.IntegerField(help_text="Contacts with the phone number of an earlier contact.")
    agent_mapping_id = serializers.UUIDField(source="batch.agent_mapping_id")
    agent_name = serializers.CharField(source="batch.agent_mapping.ultravox_agent_name", allow_null=True)
    campaign_id = serializers.UUIDField(source="batch.campaign_id")
    from_number = serializers.CharField(source="batch.from_number")
    calls_per_minute = serializers.IntegerField(source="batch.calls_per_minute")
    max_concurrent = serializers.IntegerField(source="batch.max_concurrent")
    scheduled_for = serializers.DateTimeField(source="batch.scheduled_for", allow_null=True)
    mode = serializers.ChoiceField(choices=Mode.choices, source="batch.mode")
    created_at = serializers.DateTimeField(source="batch.created_at")
    replaces = serializers.UUIDField(
        source="batch.replaces_id", required=False, help_text="The cancelled batch. Present only for a replacement."
    )

    def to_representation(self, instance: CreateResult) -> dict[str, Any]:
        answer = super().to_representation(instance)
        if instance.batch.replaces_id is None:
            del answer["replaces"]
        return answer


class CounterField(serializers.IntegerField):
    """A counter. Another service may have left it NULL, which is shown as 0."""

    def get_attribute(self, instance: Any) -> int:
        return super().get_attribute(instance) or 0


class BatchSerializer(serializers.ModelSerializer[CallBatch]):
    """A batch with its counters and its progress."""

    agency_id = serializers.UUIDField()
    campaign_id = serializers.UUIDField()
    # The names are annotations of the queryset with_names().
    campaign_name = serializers.CharField(allow_null=True)
    agent_mapping_id = serializers.UUIDField()
    agent_name = serializers.CharField(allow_null=True)
    total_contacts = CounterField()
    queued = CounterField(help_text="Contacts left to call.")
    in_progress = CounterField()
    completed = CounterField()
    failed = CounterField()
    skipped = CounterField()
    progress_percentage = serializers.FloatField(
        help_text="Completed, failed and skipped contacts in percent of the total, with one decimal."
    )
    remaining_count = serializers.IntegerField()
    # An annotation of with_dialling_state().
    agency_held_at = serializers.DateTimeField(
        source="state_agency_held_at",
        allow_null=True,
        help_text="When the agency was put on hold. Null if it is not on hold.",
    )
    waiting_for = serializers.SerializerMethodField(
        help_text="Why no call starts at the moment, for people to read. Null if one can, and when the batch has ended."
    )

    class Meta:
        model = CallBatch
        fields = [
            *("id", "agency_id", "campaign_id", "campaign_name", "agent_mapping_id", "agent_name", "from_number"),
            *("status", "total_contacts", "queued", "in_progress", "completed", "failed", "skipped"),
            *("progress_percentage", "remaining_count", "calls_per_minute", "max_concurrent", "scheduled_for"),
            *("created_at", "started_at", "paused_at", "completed_at", "error_message", "waiting_for"),
            "agency_held_at",
        ]

    def get_waiting_for(self, batch: CallBatch) -> str | None:
        waiting = waiting_for(batch)
        return str(waiting) if waiting else None


class ContactSerializer(serializers.ModelSerializer[CampaignContact]):
    """A contact with its attempts and its outcome."""

    class Meta:
        model = CampaignContact
        fields = [
            *("id", "phone_number", "first_name", "last_name", "email", "company", "title", "status", "call_id"),
            *("attempts", "max_attempts", "outcome", "duration_seconds", "outcome_notes", "last_attempt_at"),
            *("completed_at", "custom_data", "do_not_call", "timezone", "created_at"),
        ]


class PaginationSerializer(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()
    has_more = serializers.BooleanField()


class BatchPageSerializer(serializers.Serializer[Any]):
    """A page of the agency's batches, newest first."""

    batches = BatchSerializer(many=True)
    pagination = PaginationSerializer()


class SingleBatchSerializer(BatchSerializer):
    """A batch with the batch that it replaces, and the batch that replaces it, if the caller may see them."""

    # Annotations of with_replaced() and with_replacement().
    replaces = serializers.UUIDField(source="replaced_id", allow_null=True)
    replaced_by = serializers.UUIDField(source="replacement_id", allow_null=True)

    class Meta(BatchSerializer.Meta):
        fields = [*BatchSerializer.Meta.fields, "replaces", "replaced_by"]


class BatchWithContactsSerializer(serializers.Serializer[Any]):
    """A batch and a page of its contacts, oldest first."""

    batch = SingleBatchSerializer()
    contacts = ContactSerializer(many=True)
    contact_pagination = PaginationSerializer()


class PassSerializer(serializers.Serializer[PassResult]):
    """The answer to a pass of the dialler."""

    batches_processed = serializers.IntegerField()
    calls_initiated = serializers.IntegerField()
    calls_failed = serializers.IntegerField(help_text="Calls that the provider refused, or whose answer was unclear.")
    processed = serializers.IntegerField(required=False, help_text="Only after a pass that processed no batch: 0.")
    message = serializers.CharField(required=False, help_text="Only after a pass that processed no batch.")

    def to_representation(self, instance: PassResult) -> dict[str, Any]:
        answer = super().to_representation(instance)
        if not instance.batches_processed:
            # Monitors of the edge function that this endpoint replaces read these.
            answer |= {"processed": 0, "message": "No batches to process."}
        return answer


class StoredSerializer(serializers.Serializer[Any]):
    """The answer to a webhook event."""

    success = serializers.BooleanField()
