"""Rejections in a row: how the dialler notices that they are not about the contacts, and gives the contacts back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.contrib.postgres.functions import TransactionNow
from django.db.models import F, Value
from django.db.models.functions import Coalesce, Greatest

from calls.models.batch import CallBatch
from calls.statuses import UNCLEAR, ContactStatus, Outcome, not_placed_note

if TYPE_CHECKING:
    from calls.models.contact import CampaignContact

_WORD_WITH_DIGIT = re.compile(r"\S*\d\S*")

# After this many rejections in a row for the same reason, the contacts are not the cause.
STREAK_LENGTH = 5
_STREAK_PREFIX = f"{STREAK_LENGTH} calls in a row failed. "


def streak_reason(note: str) -> str:
    """Return why the batch is paused after several rejections in a row with ``note``."""
    return f"{_STREAK_PREFIX}{note}"


def latest_results(batch: CallBatch, *, excluding: CampaignContact) -> list[CampaignContact]:
    """
    Return the other contacts of the batch whose attempts were the latest ones, newest first, four at most.

    An attempt in progress counts if its call was accepted. Until then its result is unknown, and it is left out.
    """
    known = type(excluding).objects.attempted(batch.pk).exclude(pk=excluding.pk).exclude(call_id=None, outcome=None)
    columns = ("call_id", "outcome", "outcome_notes")
    return list(known.only(*columns).order_by("-last_attempt_at")[: STREAK_LENGTH - 1])


def streak_before(results: list[CampaignContact], note: str) -> list[CampaignContact]:
    """Return the latest ``results`` if one more rejection with ``note`` makes a streak of five, else no contact."""
    alike = [result for result in results if _was_rejected(result) and _is_same_reason(result.outcome_notes, note)]
    return alike if len(alike) == STREAK_LENGTH - 1 else []


def was_paused_for(batch: CallBatch, note: str) -> bool:
    """Return whether the dialler had paused the batch for the reason of this rejection when the batch was read."""
    reason = batch.dialler_pause_reason
    if reason is None:
        return False
    # After a streak the reason has the note of its rejections. After a refusal of all calls it has the bare words.
    is_streak = reason.startswith(_STREAK_PREFIX)
    return _is_same_reason(reason.removeprefix(_STREAK_PREFIX) if is_streak else not_placed_note(reason), note)


def has_accepted(results: Sequence[CampaignContact]) -> bool:
    """Return whether the provider accepted one of these calls."""
    return not all(map(_was_rejected, results))


def give_back(batch: CallBatch, contacts: Sequence[CampaignContact]) -> None:
    """
    Queue rejected contacts again, behind the others, and uncount these attempts.

    The caller holds the batch's lock. The note is removed, so that the contacts are not part of the next streak.
    """
    rejected = batch.contacts.filter(pk__in=[contact.pk for contact in contacts], outcome=Outcome.NOT_PLACED)
    values = {
        "status": ContactStatus.QUEUED,
        "attempts": Greatest(Coalesce(F("attempts"), 0) - 1, Value(0)),
        "outcome_notes": None,
        "completed_at": None,
        "updated_at": TransactionNow(),
    }
    failed = rejected.filter(status=ContactStatus.FAILED).update(**values)
    rejected.filter(status=ContactStatus.QUEUED).update(**values)
    if failed:
        batch.adjust_counters(failed=-failed, queued=failed)


def _is_same_reason(one: str | None, other: str) -> bool:
    return one is not None and _without_details(one) == _without_details(other)


def _without_details(note: str) -> str:
    """
    Return a note without what differs between two refusals for one reason: an id, a time, the number of a request.

    All unclear answers count as the same reason, because a failing provider may answer differently each time.
    """
    if note.startswith(UNCLEAR):
        return UNCLEAR
    status, _, words = note.partition(": ")[2].partition(": ")
    return f"{status} {_WORD_WITH_DIGIT.sub('', words)}"


def _was_rejected(contact: CampaignContact) -> bool:
    return contact.call_id is None and contact.outcome == Outcome.NOT_PLACED
