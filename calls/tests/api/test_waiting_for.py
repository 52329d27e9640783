"""``waiting_for`` in calls-batch-list and calls-batch-get."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.statuses import BatchStatus
from calls.tests.support.dialling import claim, started_batch
from calls.tests.support.factories import FUNCTIONS

pytestmark = pytest.mark.django_db

LIST, GET = f"{FUNCTIONS}list", f"{FUNCTIONS}get"


def test_list_and_get_tell_what_each_batch_waits_for(harbour, owner):
    full = started_batch(harbour, queued=2, max_concurrent=1)
    claim(full)
    paused, ready = started_batch(harbour, status=BatchStatus.PAUSED), started_batch(harbour)
    expected = {
        str(full.pk): "1 call in progress, the most this batch may have",
        str(paused.pk): "the batch is paused",
        str(ready.pk): None,
    }

    listed = {batch["id"]: batch["waiting_for"] for batch in owner.get(LIST).json()["batches"]}
    got = {pk: owner.get(GET, {"batch_id": pk}).json()["batch"]["waiting_for"] for pk in expected}

    assert listed == got == expected


def test_a_batch_that_has_ended_waits_for_nothing(harbour, owner):
    batch = harbour.batch(BatchStatus.COMPLETED, completed=1)

    assert owner.get(LIST).json()["batches"][0]["waiting_for"] is None
    assert owner.get(GET, {"batch_id": str(batch.pk)}).json()["batch"]["waiting_for"] is None


def test_a_batch_waits_for_the_key_of_its_agency(harbour, owner, settings):
    settings.CREDENTIALS_KEYS = ["a-key"]
    started_batch(harbour)

    assert owner.get(LIST).json()["batches"][0]["waiting_for"].startswith("The agency has no Ultravox key.")


def test_the_list_takes_the_same_queries_for_3_batches_and_for_a_full_page(harbour, owner):
    def queries():
        owner.get(LIST, {"limit": 50})
        with CaptureQueriesContext(connection) as captured:
            assert owner.get(LIST, {"limit": 50}).status_code == 200
        return len(captured)

    for _ in range(3):
        started_batch(harbour)
    few = queries()
    for _ in range(47):
        started_batch(harbour)

    assert queries() == few
