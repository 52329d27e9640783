"""What a batch waits for, in the list of batches and on a batch's page."""

import pytest
from django.db import connection

from calls.statuses import BatchStatus
from calls.tests.support.admin_pages import BATCHES, page_of, text_of
from calls.tests.support.dialling import claim, started_batch

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["the list", "the batch's page"])
def text(request, admin):
    """Return the text of the page that shows the batch."""
    return lambda batch: text_of(admin.get(BATCHES if request.param == "the list" else page_of(batch)))


def test_it_says_what_the_batch_waits_for(harbour, text):
    batch = started_batch(harbour, queued=3, max_concurrent=2)
    for _ in range(2):
        claim(batch)

    assert "Waiting: 2 calls in progress, the most this batch may have" in text(batch)


def test_it_says_that_another_dialler_keeps_the_batch_even_without_end(harbour, text):
    batch = started_batch(harbour)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert "Waiting: another dialler keeps the batch" in text(batch)


def test_it_says_that_the_agency_has_no_key(harbour, text, settings):
    settings.CREDENTIALS_KEYS = ["a-key"]

    assert "Waiting: The agency has no Ultravox key." in text(started_batch(harbour))


@pytest.mark.parametrize("status", [BatchStatus.PROCESSING, BatchStatus.COMPLETED, BatchStatus.CANCELLED])
def test_it_says_nothing_about_a_batch_that_can_place_a_call_or_has_ended(harbour, text, status):
    batch = started_batch(harbour, queued=1 if status == BatchStatus.PROCESSING else 0, status=status)

    assert "Waiting:" not in text(batch)
