"""Claim the next contact of a batch, immediately before its call is placed."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db.models.functions import Coalesce, Now

from calls.database.transactions import database_errors_as
from calls.dialler.pacing import may_start_call
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus, Outcome

# The most contacts that one claim skips or fails without a call. Meanwhile a cancel waits for the batch's lock.
MAX_ENDED_UNCALLED = 100


@database_errors_as(BatchUpdateFailed)
def claim_next_contact(batch: CallBatch) -> CampaignContact | None:
    """
    Claim the contact of ``batch`` to call next. Place the call only after this has been committed.

    The contact is then in progress and its attempt is counted. Return None if no call may start: the batch is not being
    dialled, it has reached a limit, or no contact can be claimed now. A batch without unfinished contacts is completed.
    A contact marked ``do_not_call`` is skipped. A contact without attempts left becomes ``failed``. A contact that
    another service has locked is passed over.

    :raises BatchNotFound: the batch is gone.
    :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
    """
    with batch.locked("calls_per_minute", "max_concurrent") as locked:
        if locked.status != BatchStatus.PROCESSING or locked.is_on_hold or not may_start_call(locked):
            return None
        contact = _next_contact(locked)
        if contact is not None:
            CampaignContact.objects.filter(pk=contact.pk).update(
                status=ContactStatus.IN_PROGRESS,
                attempts=Coalesce("attempts", 0) + 1,
                last_attempt_at=Now(),
                # Clear the result of an earlier attempt.
                call_id=None,
                outcome=None,
                outcome_notes=None,
                duration_seconds=None,
                updated_at=TransactionNow(),
            )
            locked.adjust_counters(queued=-1, in_progress=1)
            contact.was_given_back = contact.outcome == Outcome.NOT_PLACED
            contact.refresh_from_db()
        return contact


def _next_contact(batch: CallBatch) -> CampaignContact | None:
    """Return the contact to claim, locked, and skip or fail the contacts before it that must not be called."""
    waiting = CampaignContact.objects.filter(batch=batch.pk).claimable().in_call_order()
    for _ in range(MAX_ENDED_UNCALLED):
        contact = waiting.select_for_update(of=("self",), skip_locked=True).first()
        if contact is None:
            batch.complete_if_finished()
            return None
        if contact.do_not_call:
            _end_uncalled(contact, batch, ContactStatus.SKIPPED, "Do not call")
        elif not contact.has_attempts_left:
            _end_uncalled(contact, batch, ContactStatus.FAILED, "No attempts left", completed_at=TransactionNow())
        else:
            return contact
    return None


def _end_uncalled(contact: CampaignContact, batch: CallBatch, status: ContactStatus, note: str, **values: Any) -> None:
    CampaignContact.objects.filter(pk=contact.pk).update(
        status=status, outcome_notes=note, updated_at=TransactionNow(), **values
    )
    batch.adjust_counters(**{"queued": -1, str(status): 1})
