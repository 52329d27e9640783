"""Compare a batch's counters with its contacts, and correct them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib.postgres.functions import TransactionNow

from calls.database.transactions import database_errors_as
from calls.exceptions import BatchUpdateFailed
from calls.models.batch import CallBatch
from calls.statuses import ContactStatus, skip_note

COUNTERS = ("total_contacts", "queued", "in_progress", "completed", "failed", "skipped")


@dataclass(frozen=True)
class Discrepancy:
    """
    Where a batch and its contacts disagree.

    ``counters`` maps the name of each wrong counter to its stored and its counted value. ``left_behind`` is the number
    of dialable contacts in a batch that has ended.
    """

    batch_id: UUID
    status: str
    counters: dict[str, tuple[int, int]]
    left_behind: int


@database_errors_as(BatchUpdateFailed)
def reconcile(batch_id: UUID, *, fix: bool = False) -> Discrepancy | None:
    """
    Compare the counters with a fresh count of the contacts, under the batch's lock. Return None if they agree.

    With ``fix`` the counters are set to the fresh count. Dialable contacts of a batch that has ended are skipped,
    because no dialler can claim them. The timeouts are those of :meth:`CallBatch.cancel`.

    :raises BatchNotFound: the row is gone.
    :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
    """
    with CallBatch(pk=batch_id).locked(*COUNTERS) as batch:
        batch.allow_for_all_contacts()
        dialable = batch.contacts.dialable() if batch.has_ended else batch.contacts.none()
        left_behind = dialable.count()
        if fix and left_behind:
            dialable.update(
                status=ContactStatus.SKIPPED, outcome_notes=skip_note(batch.status), updated_at=TransactionNow()
            )
        counted = batch.contacts.counters()
        stored = {name: getattr(batch, name) or 0 for name in counted}
        wrong = {name: (stored[name], count) for name, count in counted.items() if stored[name] != count}
        if fix and wrong:
            CallBatch.objects.filter(pk=batch.pk).update(**counted, updated_at=TransactionNow())
    return Discrepancy(batch.pk, batch.status, wrong, left_behind) if wrong or left_behind else None
