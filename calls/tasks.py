"""The jobs of ``manage.py procrastinate worker``. A job names a batch, never a contact."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connection, models
from django.utils import timezone
from procrastinate import JobContext
from procrastinate.builtin_tasks import remove_old_jobs
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.types import JSONValue

from calls import cleanup
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.dialler.placing import place_next_call
from calls.dialler.rounds import CALLS_PER_ROUND, next_round
from calls.dialler.starting import start_batch
from calls.dialler.sweep import batches_to_sweep, run_sweep
from calls.exceptions import BatchReadFailed, CallsError
from calls.models import CallBatch

logger = logging.getLogger(__name__)

EVERY_MINUTE = "* * * * *"
# In UTC.
EVERY_NIGHT = "30 3 * * *"
# Periodic jobs run before calls, however many calls are queued.
BEFORE_CALLS = 1
# The next round runs after the calls of the round before.
AFTER_CALLS = -CALLS_PER_ROUND
# The shortest pause between two rounds, in seconds.
SHORTEST_PAUSE = 1.0
# Enough batches for one query to find what to ask about.
BATCHES_PER_SWEEP = 20
SWEEP_SECONDS = 45.0
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
    """Dial the due batches in rounds, and look for batches that are finished."""
    with _log_database_error("dialler"):
        _run_round(include_empty=True)


@app.task(queueing_lock="dial_next_batches", priority=AFTER_CALLS)
def dial_next_batches() -> None:
    """Start the next round. It is queued behind the calls of the round before."""
    with _log_database_error("dialler"):
        _run_round(include_empty=False)


def _run_round(*, include_empty: bool) -> None:
    """Queue one job for each batch that can place a call now, and then the next round."""
    began = time.monotonic()
    current = next_round(include_empty=include_empty, skip=_batches_with_a_job())
    _queue([_dial_job(turn.batch, turn.places, start=turn.start) for turn in current.turns])
    if current.read_at is None:
        # No batch is due. The next periodic job looks again.
        return
    # A full round is followed by the next one when its calls have begun. Otherwise no call is left to start, and the
    # batches of a large platform are read for a tenth of the time at most.
    pause = SHORTEST_PAUSE if current.is_full else max(SHORTEST_PAUSE, 10 * (time.monotonic() - began))
    with suppress(AlreadyEnqueued):
        dial_next_batches.configure(schedule_at=timezone.now() + timedelta(seconds=pause)).defer()


def _batches_with_a_job() -> list[UUID]:
    with database_errors_as(BatchReadFailed), transaction_with_timeouts():
        return [UUID(batch_id) for batch_id in _jobs_in_queue(dial.name).values_list("args__batch_id", flat=True)]


def _jobs_in_queue(task: str) -> models.QuerySet[ProcrastinateJob]:
    return ProcrastinateJob.objects.filter(task_name=task, status=Status.TODO.value)


def _dial_job(batch: CallBatch, places: list[int], *, start: bool) -> Job:
    """
    Return a job for the batch. Only one waits at a time, even when the workers are behind.

    The tenth call of an agency runs after the ninth of any other, so agencies take turns, whatever number of batches
    they have.
    """
    priority = -places[0] if places else AFTER_CALLS
    deferrer = dial.configure(queueing_lock=f"dial {batch.pk}", priority=priority)
    return deferrer.make_new_job(
        batch_id=str(batch.pk), agency_id=str(batch.agency_id), places=list[JSONValue](places), start=start
    )


def _queue(jobs: list[Job]) -> None:
    """Queue jobs with one statement, except those that wait already."""
    if not jobs:
        return
    try:
        app.job_manager.batch_defer_jobs(jobs)
    except AlreadyEnqueued:
        # Another worker has queued one of them meanwhile, so the whole statement failed. Queue them one by one.
        for job in jobs:
            with suppress(AlreadyEnqueued):
                app.job_manager.defer_job(job)


@app.task
async def dial(batch_id: str, agency_id: str, places: list[int], start: bool) -> None:
    """
    Start a batch if ``start`` is set, place one of its calls, and queue a job for the others.

    One call per job: the batches take turns, and a worker that is shutting down finishes the calls that it is placing
    and starts no others.

    :param places: the place of each call of the batch among the calls of its agency in the round.
    """
    batch = CallBatch(pk=UUID(batch_id), agency_id=UUID(agency_id))
    await sync_to_async(_dial, thread_sensitive=False, executor=THREADS)(batch, places, start)


def _dial(batch: CallBatch, places: list[int], start: bool) -> None:
    def queue_others() -> None:
        if len(places) > 1:
            with _log_database_error(f"dial batch={batch.pk}"):
                _queue([_dial_job(batch, places[1:], start=False)])

    try:
        with _log_database_error(f"dial batch={batch.pk}"):
            if start:
                start_batch(batch)
            if places:
                place_next_call(batch, on_claim=queue_others)
    finally:
        connection.close()


@app.periodic(cron=EVERY_MINUTE)
@app.task(queueing_lock="sweep", priority=BEFORE_CALLS)
def sweep(timestamp: int) -> None:
    """Queue jobs that settle calls whose result was never recorded, so that all workers share this work."""
    with _log_database_error("sweep"):
        with database_errors_as(BatchReadFailed), transaction_with_timeouts():
            has_queued_jobs = _jobs_in_queue(sweep_batches.name).exists()
        if has_queued_jobs:
            # Jobs of the previous sweep are still queued.
            return
        ids: list[JSONValue] = [str(batch_id) for batch_id in batches_to_sweep()]
        groups = [ids[start : start + BATCHES_PER_SWEEP] for start in range(0, len(ids), BATCHES_PER_SWEEP)]
        # Spread over most of the minute, so that calls continue to start in between.
        pause = timedelta(seconds=SWEEP_SECONDS / max(len(groups), 1))
        now = timezone.now()
        _queue(
            [
                sweep_batches.configure(schedule_at=now + number * pause).make_new_job(batch_ids=group)
                for number, group in enumerate(groups)
            ]
        )


@app.task
async def sweep_batches(batch_ids: list[str]) -> None:
    """Sweep these batches."""
    await sync_to_async(_sweep_batches, thread_sensitive=False, executor=THREADS)(list(map(UUID, batch_ids)))


def _sweep_batches(batch_ids: list[UUID]) -> None:
    try:
        with _log_database_error("sweep"):
            run_sweep(batch_ids)
    finally:
        connection.close()


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
