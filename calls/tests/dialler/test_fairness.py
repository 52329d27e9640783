"""An agency with many batches does not slow down another agency's batch. A real worker places the calls."""

import time

import pytest

from calls import tasks
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus
from calls.tests.support.concurrency import until
from calls.tests.support.provider import KEY, Answer
from calls.tests.support.workers import worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.usefixtures("empty_queue")]


@pytest.fixture
def busy_worker(harbour, provider):
    """A worker that has begun to dial 100 batches of Harbour, each of which could use all of its calls."""
    # With eight calls at once, the worker places 80 calls a second at most.
    provider.default_answer = Answer(delay=0.1)
    for _ in range(100):
        harbour.batch(queued=60)
    tasks.dial_due_batches(0)
    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY, RETRY_PAUSE="300", LOG_LEVEL="ERROR"):
        until(lambda: calls_of(harbour) > 300)
        yield


def calls_of(tenant):
    return CampaignContact.objects.filter(agency=tenant.agency).exclude(last_attempt_at=None).count()


@pytest.mark.xfail(
    strict=True, reason="In the queue each batch has its turn, not each agency: one call for 100 calls of Harbour."
)
def test_another_agency_s_batch_has_its_first_call_within_5_seconds_and_all_that_its_limits_allow_within_20(
    harbour, bluebell, busy_worker
):
    calls_before = calls_of(harbour)
    batch = bluebell.batch(BatchStatus.PENDING, pending=100)
    # The most that a client can ask for.
    CallBatch.objects.filter(pk=batch.pk).update(calls_per_minute=60, max_concurrent=100)
    began = time.monotonic()

    until(lambda: calls_of(bluebell))
    first = time.monotonic() - began
    while calls_of(bluebell) < 60 and time.monotonic() < began + 20:
        time.sleep(0.1)

    assert first < 5
    assert calls_of(bluebell) == 60
    # Harbour had the other calls.
    assert calls_of(harbour) - calls_before >= 60
