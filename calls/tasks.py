"""The jobs of ``manage.py procrastinate worker``. A job names a batch, never a contact."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import timezone
from procrastinate import JobContext
from procrastinate.builtin_tasks import remove_old_jobs
from procrastinate.contrib.django import app
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status

from calls import cleanup
from calls.dialler import passes
from calls.dialler.pacing import time_until_next_call
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.sweep import run_sweep
from calls.exceptions import CallsError
from calls.models import CallBatch

logger = logging.getLogger(__name__)

EVERY_MINUTE = "* * * * *"
# In UTC.
EVERY_NIGHT = "30 3 * * *"
# Periodic jobs run before calls, however many calls are queued.
BEFORE_CALLS = 1
# Enough threads for any --concurrency. With Python's default, which depends on the number of processors, a job could
# still be waiting for a thread when its worker receives SIGTERM.
THREADS = ThreadPoolExecutor(max_workers=1000, thread_name_prefix="dial")
# A worker that is stopped waits for its jobs, so none may take long.
CLEANUP_SECONDS = 20.0
FAILED_JOBS_KEPT_HOURS = 30 * 24


@contextmanager
def _log_database_error(job: str) -> Iterator[None]:
    """Log a database error in one line and suppress it. The next job of its kind continues."""
    try:
        yield
    except CallsError as failed:
        logger.warning("%s outcome=%s", job, failed.code)
    except ConnectorException as failed:
        logger.warning("%s outcome=queue_failed: %s", job, type(failed.__cause__).__name__)


@app.periodic(cron=EVERY_MINUTE)
@app.task(queueing_lock="dial_due_batches", priority=BEFORE_CALLS)
def dial_due_batches(timestamp: int) -> None:
    """Start the due batches, and queue one job for each call that may start."""
    with _log_database_error("dialler"):
        for batch_id, slots in passes.start_due_batches():
            for slot in range(slots):
                # At most one job waits for each slot, even when the workers are behind.
                with suppress(AlreadyEnqueued):
                    dial.configure(queueing_lock=f"dial {batch_id} {slot}").defer(batch_id=str(batch_id))


@app.task(pass_context=True)
async def dial(context: JobContext, batch_id: str) -> None:
    """Place one call of a batch. If only ``calls_per_minute`` delays it, queue the job again for later."""
    await sync_to_async(_dial, thread_sensitive=False, executor=THREADS)(context, batch_id)


def _dial(context: JobContext, batch_id: str) -> None:
    batch = CallBatch(pk=UUID(batch_id))
    try:
        with _log_database_error(f"dial batch={batch_id}"):
            if place_next_call(batch.pk) is not DialOutcome.NOTHING_CLAIMED:
                return
            wait = time_until_next_call(batch)
            if wait is not None:
                later = dial.configure(schedule_at=timezone.now() + wait, queueing_lock=context.job.queueing_lock)
                with suppress(AlreadyEnqueued):
                    later.defer(batch_id=batch_id)
    finally:
        connection.close()


@app.periodic(cron=EVERY_MINUTE)
@app.task(queueing_lock="sweep", priority=BEFORE_CALLS)
def sweep(timestamp: int) -> None:
    """Settle calls whose result was never recorded."""
    with _log_database_error("sweep"):
        run_sweep()


@app.periodic(cron="*/10 * * * *")
@app.task(queueing_lock="remove_stalled_jobs", priority=BEFORE_CALLS)
async def remove_stalled_jobs(timestamp: int) -> None:
    """Delete the jobs of dead workers. New jobs are queued every minute, and the sweep settles claimed contacts."""
    with _log_database_error("remove_stalled_jobs"):
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)


@app.periodic(cron=EVERY_NIGHT)
@app.task(queueing_lock="delete_expired", priority=BEFORE_CALLS)
def delete_expired(timestamp: int) -> None:
    """Delete rows whose retention is over. If there are too many for one job, queue another one."""
    with _log_database_error("cleanup"), suppress(AlreadyEnqueued):
        if not cleanup.delete_expired(seconds=CLEANUP_SECONDS).is_complete:
            delete_expired.configure().defer(timestamp=timestamp)


@app.periodic(cron=EVERY_NIGHT)
@app.task(queueing_lock="delete_failed_jobs", priority=BEFORE_CALLS, pass_context=True)
async def delete_failed_jobs(context: JobContext, timestamp: int) -> None:
    """Delete the jobs that failed or were cancelled 30 days ago. Jobs that succeed are deleted at once."""
    with _log_database_error("delete_failed_jobs"):
        await remove_old_jobs(
            context, max_hours=FAILED_JOBS_KEPT_HOURS, remove_failed=True, remove_cancelled=True, remove_aborted=True
        )
