"""An agency with many batches does not slow down another agency's batch. A real worker places the calls."""

import pytest

from calls import tasks
from calls.dialler.rounds import CALLS_PER_ROUND
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus
from calls.tests.support.concurrency import until
from calls.tests.support.provider import KEY, Answer
from calls.tests.support.workers import worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.usefixtures("empty_queue")]

# The calls that a worker places at the same time.
AT_ONCE = 8


@pytest.fixture
def busy_worker(harbour, provider):
    """A worker that has begun to dial 100 batches of Harbour, each of which could use all of its calls."""
    provider.default_answer = Answer(delay=0.1)
    for _ in range(100):
        harbour.batch(queued=60)
    tasks.dial_due_batches(0)
    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY, RETRY_PAUSE="300", LOG_LEVEL="ERROR"):
        until(lambda: calls_of(harbour) > 300)
        yield


def calls_of(tenant):
    return CampaignContact.objects.filter(agency=tenant.agency).exclude(last_attempt_at=None).count()


def test_another_agency_s_batch_starts_after_one_round_and_then_reaches_its_limit_as_if_it_were_alone(
    harbour, bluebell, busy_worker
):
    batch = bluebell.batch(BatchStatus.PENDING, pending=100)
    # The most that a client can ask for.
    CallBatch.objects.filter(pk=batch.pk).update(calls_per_minute=60, max_concurrent=100)
    created = calls_of(harbour)

    # In calls, not in seconds: the machine may be busy with other tests.
    until(lambda: calls_of(bluebell) or calls_of(harbour) > created + 600)
    first = calls_of(harbour)
    until(lambda: calls_of(bluebell) == 60 or calls_of(harbour) > first + 600)

    assert first - created <= CALLS_PER_ROUND + AT_ONCE
    # If each of the 101 batches had the same share, Harbour would have had 6,000 calls meanwhile.
    assert calls_of(bluebell) == 60
