"""An agency with many batches does not keep another agency's batch from being dialled. A real worker places the calls."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from calls.models import CallBatch
from calls.statuses import BatchStatus
from calls.tests.support.concurrency import until
from calls.tests.support.provider import KEY, Answer
from calls.tests.support.workers import worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.usefixtures("empty_queue")]

SECONDS = 20


@pytest.fixture
def running_worker(provider):
    # Eight calls at once, so 80 calls a second at most.
    provider.default_answer = Answer(delay=0.1)
    with worker(ULTRAVOX_API_URL=provider.url, ULTRAVOX_API_KEY=KEY, RETRY_PAUSE="300"):
        yield


def calls_of(batch):
    return batch.contacts.exclude(last_attempt_at=None)


def test_a_batch_gets_all_calls_that_its_limits_allow_beside_another_agency_s_100_batches(
    harbour, bluebell, running_worker
):
    for _ in range(100):
        harbour.batch(queued=60)
    until(lambda: sum(calls_of(batch).count() for batch in CallBatch.objects.all()) > 400)
    batch = bluebell.batch(BatchStatus.PENDING, pending=100)
    CallBatch.objects.filter(pk=batch.pk).update(calls_per_minute=60, max_concurrent=100)
    began = time.time()
    seen = []
    while time.time() < began + SECONDS:
        seen.append((round(time.time() - began, 1), calls_of(batch).count(), sum(1 for _ in ())))
        time.sleep(1)
    from calls.models import CampaignContact
    print(seen, CampaignContact.objects.exclude(last_attempt_at=None).count())
