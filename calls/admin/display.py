"""What the pages of batches say, in words and numbers."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.utils.formats import date_format

from calls.admin.contacts import ContactStatusFilter
from calls.exceptions import BatchFinished, BatchNotPausable, BatchNotPaused, CallsError, DatabaseFailed
from calls.models import CallBatch, CallBatchEvent
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


def belongs_to(batch: CallBatch, separator: str) -> str:
    """Whose it is, and for what. What another service has deleted goes by its id."""
    names = []
    for relation in ("agency", "campaign"):
        try:
            names.append(str(getattr(batch, relation)))
        except ObjectDoesNotExist:
            names.append(f"{relation} {getattr(batch, f'{relation}_id')}")
    return separator.join(names)


def name_of(batch: CallBatch) -> str:
    return f"Batch {batch.pk} ({belongs_to(batch, ', ')})"


def reason(refusal: CallsError) -> str:
    """Why nothing was done, how the batch is or since when it has ended, and what to do if the database failed."""
    if isinstance(refusal, BatchFinished) and refusal.completed_at:
        return f"{refusal}, since {date_format(refusal.completed_at, 'DATETIME_FORMAT')}."
    if isinstance(refusal, BatchNotPausable | BatchNotPaused):
        return f"{refusal}; this one is {refusal.status or 'without a status'}."
    if isinstance(refusal, DatabaseFailed):
        return f"{refusal}. Try again: that is safe."
    return f"{refusal}."


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
