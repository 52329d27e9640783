"""The jobs of ``manage.py procrastinate worker``. A job names a batch, never a contact."""

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

from calls.dialler import passes
from calls.dialler.pacing import time_until_next_call
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import run_sweep
from calls.exceptions import CallsError, DatabaseFailed
from calls.models import CallBatch

logger = logging.getLogger(__name__)

EVERY_MINUTE = "* * * * *"
# Periodic jobs run before calls, however many calls are queued.
BEFORE_CALLS = 1
# Enough threads for any --concurrency. With Python's default, which depends on the number of processors, a job could
# still be waiting for a thread when its worker receives SIGTERM.
THREADS = ThreadPoolExecutor(max_workers=1000, thread_name_prefix="dial")


@app.periodic(cron=EVERY_MINUTE)
@app.task(queueing_lock="dial_due_batches", priority=BEFORE_CALLS)
def dial_due_batches(timestamp: int) -> None:
    """Start the due batches, and queue one job for each call that may start."""
    try:
        for batch_id, slots in passes.start_due_batches():
            for slot in range(slots):
                # At most one job waits for each slot, even when the workers are behind.
                with suppress(AlreadyEnqueued):
                    dial.configure(queueing_lock=f"dial {batch_id} {slot}").defer(batch_id=str(batch_id))
    except DatabaseFailed as failed:
        logger.warning("dialler outcome=%s", failed.code)


@app.task(pass_context=True)
async def dial(context: JobContext, batch_id: str) -> None:
    """Place one call of a batch. If only ``calls_per_minute`` delays it, queue the job again for later."""
    await sync_to_async(_dial, thread_sensitive=False, executor=THREADS)(context, batch_id)


def _dial(context: JobContext, batch_id: str) -> None:
    batch = CallBatch(pk=UUID(batch_id))
    try:
        if place_next_call(batch.pk) is not DialOutcome.NOTHING_CLAIMED:
            return
        wait = time_until_next_call(batch)
        if wait is not None:
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
    """Ask the provider about calls whose result was never recorded."""
    try:
        run_sweep()
    except DatabaseFailed as failed:
        logger.warning("sweep outcome=%s", failed.code)


@app.periodic(cron="*/10 * * * *")
@app.task(queueing_lock="remove_stalled_jobs", priority=BEFORE_CALLS)
async def remove_stalled_jobs(timestamp: int) -> None:
    """Delete the jobs of dead workers. New jobs are queued every minute, and the sweep settles claimed contacts."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)
