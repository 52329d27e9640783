"""What workers do: ``python manage.py procrastinate worker``. A job names a batch, and never somebody to call."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import timezone
from procrastinate import JobContext
from procrastinate.contrib.django import app
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Status

from calls.dialler import passes as processing
from calls.exceptions import CallsError, DatabaseFailed
from calls.models import CallBatch

logger = logging.getLogger(__name__)

EVERY_MINUTE = "* * * * *"
# However many calls wait in the queue.
BEFORE_CALLS = 1
# As many as a worker may have calls at once (its --concurrency). Python's own go by the number of processors, and what
# had to wait for one would begin when the worker is already told to stop.
THREADS = ThreadPoolExecutor(max_workers=1000, thread_name_prefix="dial")


@app.periodic(cron=EVERY_MINUTE)
@app.task(queueing_lock="dial_due_batches", priority=BEFORE_CALLS)
def dial_due_batches(timestamp: int) -> None:
    """Start what is due, and put a job into the queue for each call that may begin."""
    try:
        for batch_id, slots in processing.begin_pass():
            for slot in range(slots):
                # One job waits for each slot at most, however far the workers are behind.
                with suppress(AlreadyEnqueued):
                    dial.configure(queueing_lock=f"dial {batch_id} {slot}").defer(batch_id=str(batch_id))
    except DatabaseFailed as failed:
        logger.warning("dialler outcome=%s", failed.code)


@app.task(pass_context=True)
async def dial(context: JobContext, batch_id: str) -> None:
    """Place one call of a batch, if one may begin; later, if it only has to wait for ``calls_per_minute``."""
    await sync_to_async(_dial, thread_sensitive=False, executor=THREADS)(context, batch_id)


def _dial(context: JobContext, batch_id: str) -> None:
    batch = CallBatch(pk=UUID(batch_id))
    try:
        if processing.dial(batch.pk) is processing.Dialled.NOBODY and (wait := batch.next_slot()) is not None:
            later = dial.configure(schedule_at=timezone.now() + wait, queueing_lock=context.job.queueing_lock)
            with suppress(AlreadyEnqueued):
                later.defer(batch_id=batch_id)
    except CallsError as failed:
        logger.warning("dial batch=%s outcome=%s", batch_id, failed.code)
    finally:
        connection.close()


@app.periodic(cron=EVERY_MINUTE)
@app.task(queueing_lock="sweep", priority=BEFORE_CALLS)
def sweep(timestamp: int) -> None:
    """Ask the provider about calls that nobody knows the end of."""
    try:
        processing.sweep()
    except DatabaseFailed as failed:
        logger.warning("sweep outcome=%s", failed.code)


@app.periodic(cron="*/10 * * * *")
@app.task(queueing_lock="remove_stalled_jobs", priority=BEFORE_CALLS)
async def remove_stalled_jobs(timestamp: int) -> None:
    """Forget jobs whose worker has died: each minute has new ones, and the sweep looks after contacts."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)
