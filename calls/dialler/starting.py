"""Start a due batch and queue its contacts."""

from __future__ import annotations

from django.contrib.postgres.functions import TransactionNow
from django.db.models import Q
from django.db.models.functions import Least, Now

from calls.database.transactions import database_errors_as, retry_on_deadlock
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
from calls.models.locking import CLOCK, IS_AGENCY_HELD
from calls.models.querysets import LAST_CALLED
from calls.statuses import STARTABLE, BatchStatus, ContactStatus

# How many contacts are queued under one lock, which a cancel may have to wait for.
QUEUE_CHUNK = 10_000
# How many contacts are queued again under one lock.
REQUEUE_CHUNK = 1_000


@database_errors_as(BatchUpdateFailed)
def start_batch(batch: CallBatch) -> None:
    """
    Start the batch if it is due: it becomes ``processing`` and its pending contacts become ``queued``.

    The batches of an agency on hold are not changed.

    A batch that was started before is completed if it has no unfinished contact. Contacts that another service has
    queued with ``completed_at`` set or ``last_attempt_at`` in the future are queued again.

    :raises BatchNotFound: the batch is gone.
    :raises BatchUpdateFailed: a database error or timeout. The next round continues.
    """
    if _start(batch):
        _queue_pending(batch)


@retry_on_deadlock
def _start(batch: CallBatch) -> bool:
    """Return whether contacts are still pending."""
    with batch.locked("started_at", **CLOCK, **IS_AGENCY_HELD) as locked:
        is_waiting = locked.is_scheduled_ahead or locked.is_deferred or locked.is_agency_held
        if locked.status not in STARTABLE or is_waiting:
            return False
        if locked.status != BatchStatus.PROCESSING:
            locked.start()
            return True
        locked.complete_if_finished()
        if locked.has_ended:
            return False
        if locked.started_at is None:
            # It was resumed after its scheduled time.
            locked.start()
        _requeue_stale(locked)
        # Contacts are pending if another service added them, or if an earlier start was interrupted.
        return locked.contacts.filter(status=ContactStatus.PENDING).in_call_order()[:1].count() > 0


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
            locked.allow_for_all_contacts()
            remaining = pending.after(last) if last else pending
            last = remaining.exclude(created_at__isnull=True).oldest_first()[QUEUE_CHUNK - 1 : QUEUE_CHUNK].first()
            chunk = remaining.up_to(last) if last else remaining | pending.filter(created_at__isnull=True)
            not_locked = chunk.select_for_update(of=("self",), skip_locked=True)
            batch.contacts.filter(pk__in=not_locked).update(status=ContactStatus.QUEUED, updated_at=TransactionNow())
            if last is None:
                return


def _requeue_stale(batch: CallBatch) -> None:
    """
    Queue contacts again that another service has queued with ``completed_at`` set or a last attempt in the future.

    Otherwise they would never be called. This reads all contacts, so it is done only if no other contact waits.
    """
    now = Now()
    dialable = batch.contacts.dialable()
    if dialable.alias(last_called=LAST_CALLED).filter(last_called__lte=now).in_call_order()[:1].count():
        return
    batch.allow_for_all_contacts()
    stale = dialable.filter(~Q(completed_at=None) | Q(last_attempt_at__gt=now))
    not_locked = stale.select_for_update(of=("self",), skip_locked=True).values_list("pk", flat=True)
    batch.contacts.filter(pk__in=list(not_locked[:REQUEUE_CHUNK])).update(
        completed_at=None, last_attempt_at=Least("last_attempt_at", now), updated_at=TransactionNow()
    )
