"""Serializers of the endpoints for a whole agency: their bodies and their answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

from calls.api.serializers import ReasonField, validate_dry_run, validate_uuid
from calls.exceptions import CallsError, FieldInvalid
from calls.inputs import parse_reason
from calls.models import CallBatch, CancelResult, HoldResult
from calls.statuses import BatchStatus


class HoldRequestSerializer(serializers.Serializer[Any]):
    """Why the agency is held. The body may be absent. Other keys are ignored."""

    reason = ReasonField()

    def run_validation(self, data: Any = serializers.empty) -> dict[str, Any]:
        """
        Return ``{"reason": <text or None>}``.

        :raises FieldInvalid: the reason is invalid, or ``data`` is not an object.
        """
        if not isinstance(data, dict):
            raise FieldInvalid("body", "must be a JSON object")
        return {"reason": parse_reason(data)}


class CancelAllRequestSerializer(HoldRequestSerializer):
    """Which batches to cancel: all of the agency, or those of a campaign or an agent. The body may be absent."""

    campaign_id = serializers.UUIDField(required=False, allow_null=True, help_text="Only batches of this campaign.")
    agent_mapping_id = serializers.UUIDField(required=False, allow_null=True, help_text="Only batches with this agent.")
    dry_run = serializers.BooleanField(required=False, help_text="Change nothing, and return what a cancel would do.")

    def run_validation(self, data: Any = serializers.empty) -> dict[str, Any]:
        """
        Return ``reason``, ``dry_run`` and ``filters`` (the ids that were given).

        :raises FieldInvalid: a field is invalid, or ``data`` is not an object.
        """
        reason = super().run_validation(data)
        given = [name for name in ("campaign_id", "agent_mapping_id") if data.get(name) is not None]
        filters = {name: validate_uuid(name, data[name]) for name in given}
        return {**reason, "filters": filters, "dry_run": validate_dry_run(data)}


class CancelledItemSerializer(serializers.Serializer[CancelResult]):
    """One cancelled batch in the answer to cancel-all."""

    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=[BatchStatus.CANCELLED])
    contacts_skipped = serializers.IntegerField()


class CancelPreviewItemSerializer(serializers.Serializer[CancelResult]):
    """One batch that cancel-all would cancel."""

    batch_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=BatchStatus.choices)
    contacts_to_skip = serializers.IntegerField(source="contacts_skipped")
    calls_in_progress = serializers.IntegerField(source="in_progress")


class BatchErrorSerializer(serializers.Serializer[Any]):
    """One batch that cancel-all could not cancel."""

    batch_id = serializers.UUIDField()
    error = serializers.CharField()
    code = serializers.CharField()


def _list_of(name: str, *item_types: type[serializers.Serializer[Any]]) -> Any:
    """Return the schema of a list whose items have one of these types."""
    return PolymorphicProxySerializer(
        component_name=name, serializers=item_types, resource_type_field_name=None, many=True
    )


@extend_schema_field(_list_of("CancelledItemOrError", CancelledItemSerializer, BatchErrorSerializer))
class CancelledItemsField(serializers.ListField):
    """One item for each batch: its result or its error."""


@extend_schema_field(_list_of("CancelPreviewItemOrError", CancelPreviewItemSerializer, BatchErrorSerializer))
class CancelPreviewItemsField(serializers.ListField):
    """One item for each batch: its numbers or its error."""


class CancelAllSerializer(serializers.Serializer[Any]):
    """The answer to a cancel of all batches."""

    success = serializers.BooleanField(
        help_text="False if a batch could not be cancelled. Repeat the request to cancel it."
    )
    batches_cancelled = serializers.IntegerField()
    batches_failed = serializers.IntegerField()
    contacts_skipped = serializers.IntegerField()
    results = CancelledItemsField()
    message = serializers.CharField()


class CancelAllPreviewSerializer(serializers.Serializer[Any]):
    """The answer to a cancel of all batches with ``dry_run``. Nothing was changed."""

    success = serializers.BooleanField(help_text="False if the numbers of a batch could not be read.")
    dry_run = serializers.BooleanField()
    batches_to_cancel = serializers.IntegerField()
    batches_failed = serializers.IntegerField()
    contacts_to_skip = serializers.IntegerField()
    calls_in_progress = serializers.IntegerField()
    results = CancelPreviewItemsField()
    message = serializers.CharField()


Outcomes = Iterable[tuple[CallBatch, CancelResult | CallsError]]


def cancel_all_answer(outcomes: Outcomes) -> dict[str, Any]:
    """Cancel each batch, and return the answer."""
    done, items = _collect(outcomes, CancelledItemSerializer)
    failed = len(items) - len(done)
    message = (
        f"Batches cancelled: {len(done)}. In-progress calls will complete but no new calls will be initiated in these"
        " batches."
    )
    if failed:
        message += f" Batches that could not be cancelled: {failed}. Repeat the request."
    return {
        "success": not failed,
        "batches_cancelled": len(done),
        "batches_failed": failed,
        "contacts_skipped": sum(result.contacts_skipped for result in done),
        "results": items,
        "message": message,
    }


def cancel_all_preview(outcomes: Outcomes) -> dict[str, Any]:
    """Read what a cancel of each batch would do, and return the answer."""
    done, items = _collect(outcomes, CancelPreviewItemSerializer)
    return {
        "success": len(done) == len(items),
        "dry_run": True,
        "batches_to_cancel": len(done),
        "batches_failed": len(items) - len(done),
        "contacts_to_skip": sum(result.contacts_skipped for result in done),
        "calls_in_progress": sum(result.in_progress for result in done),
        "results": items,
        "message": "Nothing was changed. These numbers show what a cancel would do.",
    }


def _collect(
    outcomes: Outcomes, item: type[serializers.Serializer[CancelResult]]
) -> tuple[list[CancelResult], list[Any]]:
    """Return the results, and the items of the answer: one for each result and one for each error."""
    done: list[CancelResult] = []
    items: list[Any] = []
    for batch, outcome in outcomes:
        if isinstance(outcome, CallsError):
            items.append({"batch_id": str(batch.pk), "error": outcome.text, "code": outcome.code})
        else:
            done.append(outcome)
            items.append(item(outcome).data)
    return done, items


class HeldAgencySerializer(serializers.Serializer[HoldResult]):
    """The answer to a hold."""

    success = serializers.BooleanField(default=True)
    held_at = serializers.DateTimeField()
    calls_in_progress = serializers.IntegerField(source="in_progress", help_text="They continue until they end.")
    message = serializers.CharField(
        default="Agency on hold. In-progress calls will complete but no new calls will be initiated until it is"
        " released."
    )


class ReleasedAgencySerializer(serializers.Serializer[HoldResult]):
    """The answer to a release."""

    success = serializers.BooleanField(default=True)
    message = serializers.CharField(
        default="Agency released. Calls start again in the batches that are not paused, cancelled or scheduled for"
        " later."
    )
