"""Start a due batch and queue its contacts."""

from __future__ import annotations

from django.contrib.postgres.functions import TransactionNow

from calls.database.transactions import database_errors_as, retry_on_deadlock
from calls.dialler.pacing import free_slots
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
from calls.statuses import STARTABLE, BatchStatus, ContactStatus

# How many contacts are queued under one lock, which a cancel may have to wait for.
QUEUE_CHUNK = 10_000
# How many contacts with a stale completed_at are requeued under one lock.
REQUEUE_CHUNK = 1_000


@database_errors_as(BatchUpdateFailed)
def start_batch(batch: CallBatch) -> int:
    """
    Start the batch if it is due, and return how many calls may start in it now.

    The batch becomes ``processing`` and its pending contacts become ``queued``. Returns 0 for a batch that is not due,
    is on hold, has reached a limit, or has no contact to call. The limits are checked again when a contact is claimed.

    :raises BatchNotFound: the batch is gone.
    :raises BatchUpdateFailed: a database error or timeout. The next pass continues.
    """
    has_pending, slots = _start(batch)
    if has_pending:
        _queue_pending(batch)
    return slots


@retry_on_deadlock
def _start(batch: CallBatch) -> tuple[bool, int]:
    """Return whether contacts are still pending, and how many calls may start."""
    with batch.locked("started_at", "calls_per_minute", "max_concurrent") as locked:
        if locked.status not in STARTABLE or locked.is_scheduled_ahead or locked.is_on_hold:
            return False, 0
        was_processing = locked.status == BatchStatus.PROCESSING
        # A batch that was resumed after its scheduled time is processing but was never started.
        starts = not was_processing or locked.started_at is None
        if starts:
            locked.start()
        if was_processing:
            locked.complete_if_finished()
            if locked.has_ended:
                return False, 0
            _requeue_stale(locked)
        next_in_order = locked.contacts.claimable().in_call_order().values_list("status", flat=True)
        statuses = list(next_in_order[: free_slots(locked)])
        # In a batch that was started before, contacts are pending if another service added them, or if an earlier pass
        # was interrupted.
        return starts or ContactStatus.PENDING in statuses, len(statuses)


@retry_on_deadlock
def _queue_pending(batch: CallBatch) -> None:
    """
    Set the pending contacts to queued, chunk by chunk, while the batch is processing.

    Contacts that another service has locked are passed over. A claim takes pending contacts as well.
    """
    pending = batch.contacts.filter(status=ContactStatus.PENDING)
    last = None
    while True:
        with batch.locked() as locked:
            if locked.status != BatchStatus.PROCESSING:
                return
            remaining = pending.after(last) if last else pending
            last = remaining.exclude(created_at__isnull=True).oldest_first()[QUEUE_CHUNK - 1 : QUEUE_CHUNK].first()
            chunk = remaining.up_to(last) if last else remaining | pending.filter(created_at__isnull=True)
            not_locked = chunk.select_for_update(of=("self",), skip_locked=True)
            batch.contacts.filter(pk__in=not_locked).update(status=ContactStatus.QUEUED, updated_at=TransactionNow())
            if last is None:
                return


def _requeue_stale(batch: CallBatch) -> None:
    """
    Clear ``completed_at`` of dialable contacts, if no other contact waits.

    Another service that queues a contact again may leave it set, and such a contact is not in the call order.
    """
    dialable = batch.contacts.dialable()
    if not dialable.in_call_order()[:1].count():
        stale = dialable.exclude(completed_at=None).select_for_update(of=("self",), skip_locked=True)
        batch.contacts.filter(pk__in=list(stale.values_list("pk", flat=True)[:REQUEUE_CHUNK])).update(
            completed_at=None, updated_at=TransactionNow()
        )
