"""What the pages of batches say, in words and numbers."""

from __future__ import annotations

from typing import Any

from django.template.defaultfilters import pluralize
from django.utils.formats import date_format

from calls.admin.contacts import ContactStatusFilter
from calls.exceptions import BatchFinished, BatchUpdateFailed, CallsError
from calls.models import CallBatch, CallBatchEvent, CancelResult
from calls.statuses import ContactStatus

# The parts of a batch, in the order of the bar: the batch's counter, how it is called, the contacts' filter for it.
PARTS = [
    ("completed", "completed", ContactStatus.COMPLETED),
    ("failed", "failed", ContactStatus.FAILED),
    ("skipped", "skipped", ContactStatus.SKIPPED),
    ("in_progress", "in progress", ContactStatus.IN_PROGRESS),
    ("queued", "left", ContactStatusFilter.LEFT),
]


def parts_of(batch: CallBatch) -> list[dict[str, Any]]:
    """The parts of a batch's bar, from its counters: each with its number, and where it starts and ends in percent."""
    counts = [max(getattr(batch, counter) or 0, 0) for counter, _, _ in PARTS]
    total = sum(counts) or 1
    ends = [sum(counts[: index + 1]) * 100 / total for index in range(len(counts))]
    return [
        {
            "key": counter,
            "label": label,
            "status": status,
            "count": count,
            "start": f"{end - count * 100 / total:.3f}%",
            "width": f"{count * 100 / total:.3f}%",
            "end": f"{end:.3f}%",
        }
        for (counter, label, status), count, end in zip(PARTS, counts, ends, strict=True)
    ]


def name_of(batch: CallBatch) -> str:
    return f"Batch {batch.pk} ({batch.agency}, {batch.campaign})"


def reason(refusal: CallsError) -> str:
    """Why a batch was not cancelled, for one that has ended since when, and what to do if the database failed."""
    if isinstance(refusal, BatchFinished) and refusal.batch.completed_at:
        return f"{refusal}, since {date_format(refusal.batch.completed_at, 'DATETIME_FORMAT')}."
    if isinstance(refusal, BatchUpdateFailed):
        return f"{refusal}. Try again: that is safe."
    return f"{refusal}."


def outcome(result: CancelResult, announced: tuple[str, str]) -> str:
    """What a cancel did; and that its numbers are others than the confirmation page ``announced``, if they are."""
    skipped, calls = result.contacts_skipped, result.in_progress
    text = (
        f"cancelled. {skipped} contact{pluralize(skipped)} skipped; "
        f"{calls} call{pluralize(calls)} in progress will finish."
    )
    if announced != (str(skipped), str(calls)) and all(number.isdecimal() for number in announced):
        text += " The confirmation page had said {} and {}: that had changed meanwhile.".format(*announced)
    return text


def _as_dict(value: Any) -> dict[str, Any]:
    """What the history was told; another service can tell it something of another shape."""
    return value if isinstance(value, dict) else {}


def describe(event: CallBatchEvent) -> dict[str, Any]:
    """One row of the history as a person reads it. Without a context somebody wrote the table by other means."""
    said = _as_dict(event.pgh_context)
    actor = _as_dict(said.get("actor"))
    return {
        "when": event.pgh_created_at,
        "what": "Created" if event.pgh_label == "created" else event.get_status_display(),
        "who": actor.get("label") or actor.get("id"),
        "kind": str(actor.get("kind")).replace("_", " "),
        "door": said.get("via"),
        "skipped": said.get("contacts_skipped"),
    }
