"""The jobs of workers. Most tests run a real worker process."""

import time
from datetime import timedelta
from itertools import chain

import psycopg
import pytest
from django.db import OperationalError, connection, models
from django.utils import timezone
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob

from calls import tasks
from calls.dialler.claims import claim_next_contact
from calls.models import Call, CallBatch, CampaignContact, IdempotencyKey
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.attempts import claim_and_die
from calls.tests.support.concurrency import TIMEOUT, until
from calls.tests.support.factories import Tenant, cancel, checked_counters
from calls.tests.support.provider import KEY
from calls.tests.support.workers import worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_queue")]


def jobs(**criteria):
    return ProcrastinateJob.objects.filter(task_name="calls.tasks.dial", **criteria)


def queue_call(batch, **options):
    """Queue a job that places one call of the batch."""
    tasks.dial.configure(**options).defer(
        batch_id=str(batch.pk), agency_id=str(batch.agency_id), places=[0], start=False
    )


@pytest.fixture
def running_worker(provider):
    """A worker that places calls with the fake provider."""
    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY, RETRY_PAUSE="0") as process:
        yield process


def test_each_due_batch_has_at_most_one_job_which_names_no_contact(harbour, ultravox):
    batches = [harbour.batch(BatchStatus.PENDING, pending=5) for _ in range(2)]
    CallBatch.objects.update(max_concurrent=3)

    tasks.dial_due_batches(0)
    tasks.dial_due_batches(60)

    assert list(jobs().order_by("id").values_list("args", flat=True)) == [
        {"batch_id": str(batch.pk), "agency_id": str(batch.agency_id), "places": places, "start": True}
        for batch, places in zip(batches, [[0, 2, 4], [1, 3, 5]], strict=True)
    ]
    assert ultravox.asked == []


def test_a_worker_places_the_queued_calls_and_the_finished_jobs_are_deleted(harbour, provider, running_worker):
    batch = harbour.batch(BatchStatus.PENDING, pending=5)
    tasks.dial_due_batches(0)

    until(lambda: Call.objects.count() == 5)
    until(lambda: not jobs().exists())

    assert {asked.metadata["batch_id"] for asked in provider.asked} == {str(batch.pk)}
    assert len({asked.attempt for asked in provider.asked}) == 5
    assert checked_counters(batch) == {"total_contacts": 5, "in_progress": 5}


def test_jobs_queued_before_a_cancel_place_no_call(harbour, provider):
    batch = harbour.batch(BatchStatus.PENDING, pending=5)
    tasks.dial_due_batches(0)
    cancel(batch)
    assert jobs().get().args["batch_id"] == str(batch.pk)

    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY):
        until(lambda: not jobs().exists())

    assert provider.asked == []
    assert checked_counters(batch) == {"total_contacts": 5, "skipped": 5}


def test_a_round_follows_a_round_as_long_as_a_batch_is_due(harbour, provider):
    batch = harbour.batch(queued=2)
    type(batch).objects.update(max_concurrent=1)
    tasks.dial_due_batches(0)

    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY, RETRY_PAUSE="0"):
        until(lambda: Call.objects.count() == 1)
        batch.contacts.get(status=ContactStatus.IN_PROGRESS).record_answered(outcome="answered")
        # The next periodic job may be a minute away.
        until(lambda: Call.objects.count() == 2)
        batch.contacts.get(status=ContactStatus.IN_PROGRESS).record_answered(outcome="answered")
        until(lambda: not ProcrastinateJob.objects.filter(task_name=tasks.dial_next_batches.name).exists())


def test_rounds_serve_every_batch_of_every_agency(harbour, bluebell, provider):
    """More batches than jobs run at once. Each may have one call in progress, so it needs a turn in three rounds."""
    agencies = [harbour, bluebell, Tenant.create("larkspur")]
    batches = [agency.batch(pending=3) for agency in agencies for _ in range(10)]
    CallBatch.objects.update(status=BatchStatus.PENDING, max_concurrent=1)
    tasks.dial_due_batches(0)

    with worker("--concurrency=5", ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY, RETRY_PAUSE="0"):
        for number in (1, 2, 3):
            until(lambda number=number: Call.objects.count() == 30 * number)
            calls = Call.objects.values_list("batch").annotate(models.Count("pk"))
            assert dict(calls) == {batch.pk: number for batch in batches}
            for contact in CampaignContact.objects.filter(status=ContactStatus.IN_PROGRESS):
                contact.record_answered(outcome="answered")

    assert set(CallBatch.objects.values_list("status", flat=True)) == {BatchStatus.COMPLETED}


def test_a_job_for_a_deleted_batch_does_nothing(harbour, running_worker):
    batch = harbour.batch()
    queue_call(batch)
    batch.delete()

    until(lambda: not jobs().exists())


def test_the_periodic_tasks_have_these_schedules():
    periodic = {task.task.name: task.cron for task in app.periodic_registry.periodic_tasks.values()}

    assert periodic == {
        "calls.tasks.dial_due_batches": "* * * * *",
        "calls.tasks.sweep": "* * * * *",
        "calls.tasks.remove_stalled_jobs": "*/10 * * * *",
        "calls.tasks.delete_expired": "30 3 * * *",
        "calls.tasks.delete_failed_jobs": "30 3 * * *",
    }


def test_a_worker_places_as_many_calls_at_once_as_its_concurrency_and_none_after_sigterm(harbour, provider):
    provider.may_answer.clear()
    batch = harbour.batch(queued=60)
    for _ in range(60):
        queue_call(batch)

    variables = {"ULTRAVOX_API_URL": provider.url, "ULTRAVOX_API_KEY": KEY, "ULTRAVOX_TIMEOUT": "120"}
    with worker("--concurrency=40", **variables) as process:
        until(lambda: len(provider.asked) == 40)
        process.terminate()
        # Give the worker time to handle the signal.
        time.sleep(1)
        provider.may_answer.set()
        process.wait(TIMEOUT)

    assert len(provider.asked) == 40 == Call.objects.count()
    assert checked_counters(batch) == {"total_contacts": 60, "queued": 20, "in_progress": 40}


def test_after_sigterm_no_further_call_of_a_batch_with_several_calls_begins(harbour, provider):
    provider.may_answer.clear()
    batch = harbour.batch(BatchStatus.PENDING, pending=5)
    type(batch).objects.update(max_concurrent=5)
    tasks.dial_due_batches(0)
    assert len(jobs().get().args["places"]) == 5

    variables = {"ULTRAVOX_API_URL": provider.url, "ULTRAVOX_API_KEY": KEY, "ULTRAVOX_TIMEOUT": "120"}
    with worker("--concurrency=1", **variables) as process:
        until(lambda: provider.asked)
        process.terminate()
        # Give the worker time to handle the signal.
        time.sleep(1)
        provider.may_answer.set()
        process.wait(TIMEOUT)

    assert len(provider.asked) == 1 == Call.objects.count()
    # The other calls wait for the next worker.
    assert len(jobs(status="todo").get().args["places"]) == 4


def test_control_without_sigterm_the_same_worker_places_the_other_calls_of_the_batch(harbour, provider):
    batch = harbour.batch(BatchStatus.PENDING, pending=5)
    type(batch).objects.update(max_concurrent=5)
    tasks.dial_due_batches(0)

    with worker("--concurrency=1", ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY):
        until(lambda: Call.objects.count() == 5)


@pytest.fixture
def sweep_jobs(harbour, monkeypatch):
    """Queue the jobs of a sweep of five batches, two in each job, and return the jobs that wait then."""
    monkeypatch.setattr(tasks, "BATCHES_PER_SWEEP", 2)
    for _ in range(5):
        claim_and_die(harbour.batch(queued=1))

    def sweep_jobs():
        tasks.sweep(0)
        return list(ProcrastinateJob.objects.filter(task_name=tasks.sweep_batches.name).order_by("scheduled_at"))

    return sweep_jobs


def test_a_sweep_queues_a_job_for_each_group_of_batches(sweep_jobs):
    groups = [job.args["batch_ids"] for job in sweep_jobs()]

    assert [len(group) for group in groups] == [2, 2, 1]
    batches = CallBatch.objects.values_list("pk", flat=True)
    assert sorted(chain.from_iterable(groups)) == sorted(map(str, batches))


def test_the_jobs_of_a_sweep_are_spread_over_most_of_the_minute(sweep_jobs):
    first, second, third = (job.scheduled_at for job in sweep_jobs())

    assert abs(first - timezone.now()) < timedelta(seconds=5)
    assert second - first == third - second == timedelta(seconds=tasks.SWEEP_SECONDS / 3)


def test_a_sweep_queues_no_job_while_a_job_of_the_sweep_before_waits(sweep_jobs):
    before = sweep_jobs()

    assert sweep_jobs() == before
    ProcrastinateJob.objects.exclude(pk=before[0].pk)._raw_delete(ProcrastinateJob.objects.db)
    assert sweep_jobs() == before[:1]


def test_a_sweep_queues_no_job_when_there_is_nothing_to_ask_about(harbour):
    claim_next_contact(harbour.batch(queued=1))

    tasks.sweep(0)

    assert not ProcrastinateJob.objects.exists()


def test_a_worker_settles_the_calls_of_all_batches_of_a_sweep(sweep_jobs, provider, monkeypatch):
    monkeypatch.setattr(tasks, "SWEEP_SECONDS", 0)
    # The worker does not dial a contact again that was given back.
    CallBatch.objects.update(status=BatchStatus.PAUSED)
    assert len(sweep_jobs()) == 3

    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY):
        until(lambda: CampaignContact.objects.filter(outcome="not_placed").count() == 5)


def test_periodic_jobs_run_before_queued_calls(harbour):
    queue_call(harbour.batch(queued=1))
    for task in (tasks.sweep, tasks.dial_due_batches, tasks.remove_stalled_jobs):
        task.defer(timestamp=0)

    assert ProcrastinateJob.objects.order_by("-priority", "id").last() == jobs().get()


def test_a_job_that_died_with_its_worker_does_not_keep_its_batch_from_being_dialled(harbour, provider):
    provider.may_answer.clear()
    batch = harbour.batch(queued=2)
    type(batch).objects.update(max_concurrent=2)
    tasks.dial_due_batches(0)
    with worker("--concurrency=1", ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY) as process:
        until(lambda: provider.asked)
        process.kill()
        process.wait(TIMEOUT)
    provider.may_answer.set()
    (dead,) = jobs(status="doing")

    tasks.dial_due_batches(60)
    assert dead.queueing_lock in jobs(status="todo").values_list("queueing_lock", flat=True)
    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY):
        until(Call.objects.exists)

    assert checked_counters(batch) == {"total_contacts": 2, "in_progress": 2}


@pytest.mark.parametrize(
    "task", [tasks.dial_due_batches, tasks.sweep, tasks.delete_expired], ids=lambda task: task.name
)
def test_a_periodic_job_that_died_with_its_worker_does_not_keep_the_next_one_from_being_queued(task):
    task.defer(timestamp=0)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE procrastinate_jobs SET status = 'doing'")

    task.defer(timestamp=60)

    assert set(ProcrastinateJob.objects.values_list("status", "args__timestamp")) == {("doing", 0), ("todo", 60)}


def test_jobs_of_a_killed_worker_are_deleted(harbour, provider):
    provider.may_answer.clear()
    batch = harbour.batch(queued=1)
    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY) as process:
        queue_call(batch)
        until(lambda: provider.asked)
        process.kill()
        process.wait(TIMEOUT)
    assert jobs(status="doing").exists()
    with app.connector.connection.cursor() as cursor:
        cursor.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")

    with worker():
        tasks.remove_stalled_jobs.defer(timestamp=0)
        until(lambda: not jobs().exists())

    assert len(provider.asked) == 1


@pytest.mark.parametrize(("run", "job"), [(tasks.dial_due_batches, "dialler"), (tasks.delete_expired, "cleanup")])
def test_a_job_that_loses_the_database_while_it_queues_another_job_logs_one_line(
    harbour, monkeypatch, caplog, run, job
):
    harbour.batch(BatchStatus.PENDING, pending=1)
    monkeypatch.setattr(tasks, "CLEANUP_SECONDS", 0)

    def lose(execute, sql, params, many, context):
        if "procrastinate_defer_jobs" in sql:
            raise OperationalError from psycopg.OperationalError()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(lose):
        run(0)

    assert [record.getMessage() for record in caplog.records if record.name == "calls.tasks"] == [
        f"{job} outcome=queue_failed: OperationalError"
    ]


def test_a_worker_deletes_what_is_expired_in_as_many_jobs_as_it_needs(harbour, monkeypatch):
    monkeypatch.setattr(tasks, "CLEANUP_SECONDS", 0)
    IdempotencyKey.objects.create(agency=harbour.agency, key="old", created_at=timezone.now() - timedelta(days=31))

    tasks.delete_expired(0)
    assert IdempotencyKey.objects.exists()
    with worker():
        until(lambda: not IdempotencyKey.objects.exists())


def test_a_worker_deletes_jobs_that_failed_a_month_ago(harbour):
    for days in (31, 29):
        queue_call(harbour.batch(), queue=f"failed {days} days ago")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE procrastinate_jobs SET status = 'failed'")
        cursor.execute(
            "UPDATE procrastinate_events SET at = now() - interval '1 day' * substring(queue_name from '[0-9]+')::int"
            " FROM procrastinate_jobs WHERE procrastinate_jobs.id = job_id"
        )

    tasks.delete_failed_jobs.defer(timestamp=0)
    with worker():
        until(lambda: jobs(status="failed").count() < 2)

    assert jobs(status="failed").get().queue_name == "failed 29 days ago"
