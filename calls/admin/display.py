"""How the admin shows batches, refusals and history rows."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.template.defaultfilters import pluralize
from django.utils.formats import date_format

from calls.admin.contacts import ContactStatusFilter
from calls.exceptions import BatchFinished, BatchNotPausable, BatchNotPaused, CallsError, DatabaseFailed
from calls.models import AgencyEvent, CallBatch, CallBatchEvent
from calls.statuses import ContactStatus

# The parts of a progress bar from left to right: the batch's counter, its label, and the status filter of its contacts.
PROGRESS_PARTS = [
    ("completed", "completed", ContactStatus.COMPLETED),
    ("failed", "failed", ContactStatus.FAILED),
    ("skipped", "skipped", ContactStatus.SKIPPED),
    ("in_progress", "in progress", ContactStatus.IN_PROGRESS),
    ("queued", "left", ContactStatusFilter.LEFT),
]


# The most history rows on one page. A batch or an agency rarely has more.
HISTORY_SHOWN = 100


def counted(number: int, noun: str, plural_suffix: str = "s") -> str:
    """Return a number and its noun: "1 contact", "2 contacts"."""
    return f"{number} {noun}{pluralize(number, plural_suffix)}"


def progress_parts(batch: CallBatch) -> list[dict[str, Any]]:
    """Return the parts of a batch's progress bar, from its counters. Starts, widths and ends are in percent."""
    counts = [
        # Another service may have ended the batch without counting. No contact is left to call then.
        0 if counter == "queued" and batch.has_ended else max(getattr(batch, counter) or 0, 0)
        for counter, _, _ in PROGRESS_PARTS
    ]
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
        for (counter, label, status), count, end in zip(PROGRESS_PARTS, counts, ends, strict=True)
    ]


def agency_and_campaign(batch: CallBatch, separator: str) -> str:
    """Return the names of the batch's agency and campaign, or the id of one that another service has deleted."""
    return separator.join(_related_name(batch, relation) for relation in ("agency", "campaign"))


def _related_name(batch: CallBatch, relation: str) -> str:
    try:
        return str(getattr(batch, relation))
    except ObjectDoesNotExist:
        return f"{relation} {getattr(batch, f'{relation}_id')}"


def batch_name(batch: CallBatch) -> str:
    return f"Batch {batch.pk} ({agency_and_campaign(batch, ', ')})"


def refusal_text(refusal: CallsError) -> str:
    """Return why nothing was done, with the batch's status or the time it ended, or with the advice to try again."""
    if isinstance(refusal, BatchFinished) and refusal.completed_at:
        return f"{refusal}, since {date_format(refusal.completed_at, 'DATETIME_FORMAT')}."
    if isinstance(refusal, BatchNotPausable | BatchNotPaused):
        return f"{refusal}; this one is {refusal.status or 'without a status'}."
    if isinstance(refusal, DatabaseFailed):
        return f"{refusal}. It is safe to try again."
    return f"{refusal}."


def _as_dict(value: Any) -> dict[str, Any]:
    # Another service may have written a context of another shape.
    return value if isinstance(value, dict) else {}


def _what_happened(event: CallBatchEvent | AgencyEvent) -> str:
    if isinstance(event, CallBatchEvent) and event.pgh_label != "created":
        return str(event.get_status_display())
    return str(event.pgh_label).capitalize()


def history_row(event: CallBatchEvent | AgencyEvent) -> dict[str, Any]:
    """
    Return one row of the history of a batch or an agency, for its page.

    A change that did not come through one of our entry points, such as plain SQL, has neither ``who`` nor ``source``.
    """
    context = _as_dict(event.pgh_context)
    actor = _as_dict(context.get("actor"))
    return {
        "when": event.pgh_created_at,
        "what": _what_happened(event),
        "who": actor.get("label") or actor.get("id"),
        "kind": str(actor.get("kind")).replace("_", " "),
        "client": actor.get("client_id"),
        "source": context.get("via"),
        "skipped": context.get("contacts_skipped"),
        "reason": context.get("reason"),
    }
