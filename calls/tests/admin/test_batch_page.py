"""A batch's page: progress, times and history."""

import html
import re
from datetime import UTC, datetime

import pytest
from django.db import connection

from calls.admin.batches import HISTORY_SHOWN
from calls.audit import Source
from calls.dialler.claims import claim_next_contact
from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    BATCHES,
    UNKNOWN_ID,
    listed_ids,
    page_of,
    text_of,
)
from calls.tests.support.factories import cancel, pause, resume

pytestmark = pytest.mark.django_db


def test_an_unknown_or_malformed_id_is_reported(admin):
    for batch_id in (UNKNOWN_ID, "nonsense"):
        assert "Perhaps it was deleted?" in text_of(admin.get(f"{BATCHES}{batch_id}/change/", follow=True))


def test_each_part_of_the_progress_links_to_its_contacts(harbour, admin):
    batch = harbour.batch(completed=2, queued=1)

    response = admin.get(page_of(batch))

    assert (
        "Processing: 3 contacts 2 completed 0 failed 0 skipped 0 in progress 1 left All contacts of this batch"
        in text_of(response)
    )
    address = re.search(r'href="([^"]*)">1 left', response.content.decode())[1].replace("&amp;", "&")
    assert listed_ids(admin, address) == [batch.contacts.get(status=ContactStatus.QUEUED).pk]


def test_a_batch_that_another_service_cancelled_without_counting_has_no_contact_left(harbour, admin):
    batch = harbour.batch(completed=2, queued=3)
    batch.contacts.filter(status=ContactStatus.QUEUED).update(status=ContactStatus.SKIPPED)
    CallBatch.objects.filter(pk=batch.pk).update(status=BatchStatus.CANCELLED, skipped=3)

    page = text_of(admin.get(page_of(batch)))

    assert "Cancelled: 5 contacts 2 completed 0 failed 3 skipped 0 in progress 0 left" in page
    assert "did not update its counters. To correct them: manage.py reconcile_batches --fix" in page
    assert "2 completed 3 skipped 5 in all" in text_of(admin.get(BATCHES))


def test_a_batch_that_this_app_cancelled_has_no_note_about_counters(harbour, admin):
    batch = harbour.batch(completed=2, queued=3)
    cancel(batch)

    assert "reconcile_batches" not in text_of(admin.get(page_of(batch)))


def test_it_shows_what_happened_and_when(harbour, admin):
    batch = harbour.batch()
    times = {
        name: datetime(2026, 1, 2, hour, tzinfo=UTC)
        for hour, name in enumerate(["created_at", "scheduled_for", "started_at", "paused_at", "completed_at"])
    }
    CallBatch.objects.filter(pk=batch.pk).update(**times, error_message="Stopped by the client")

    assert (
        "Created at: 2026-01-02 00:00:00 UTC Scheduled for: 2026-01-02 01:00:00 UTC Started at: 2026-01-02 02:00:00 UTC"
        " Paused at: 2026-01-02 03:00:00 UTC Ended at: 2026-01-02 04:00:00 UTC Reason: Stopped by the client"
        in text_of(admin.get(page_of(batch)))
    )


def test_a_cancelled_batch_says_that_no_new_call_starts(harbour, admin):
    batch = harbour.batch(queued=3, in_progress=2)
    assert "No new call starts" not in text_of(admin.get(page_of(batch)))
    cancel(batch)

    assert "No new call starts. 2 calls in progress will finish." in text_of(admin.get(page_of(batch)))


@pytest.mark.parametrize("context", ["[1]", '"x"', '{"actor": "me"}', '{"actor": {"kind": null, "id": 7}}'])
def test_it_opens_with_any_history_context_that_another_service_wrote(harbour, admin, context):
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('pghistory.context_metadata', %s, true)", [context])

    assert "UTC Created" in text_of(admin.get(page_of(harbour.batch())))


def test_the_history_shows_who_cancelled_through_which_entry_point_when_and_how_many_contacts(harbour, owner, admin):
    batch = harbour.batch(queued=3)
    owner.post("/functions/v1/calls-batch-cancel", {"batch_id": str(batch.pk)}, format="json")
    when = batch.events.last().pgh_created_at

    assert f"{when:%Y-%m-%d %H:%M:%S} UTC Cancelled agency_owner@harbour.example (agency user) api 3" in text_of(
        admin.get(page_of(batch))
    )


def test_the_history_names_the_oauth_client_that_a_user_acted_through(harbour, admin):
    batch = harbour.batch()
    harbour.owner.oauth_client_id = "partner-app"

    batch.cancel(actor=harbour.owner.as_actor(), source=Source.API)

    assert "Cancelled agency_owner@harbour.example (agency user, OAuth client partner-app) api 0" in text_of(
        admin.get(page_of(batch))
    )


def test_the_history_names_no_actor_for_a_change_by_sql(harbour, admin):
    batch = harbour.batch()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET status = 'paused' WHERE id = %s", [batch.pk])

    assert "UTC Paused unknown another service or SQL" in text_of(admin.get(page_of(batch)))


def test_the_history_shows_the_diallers_own_changes(harbour, admin):
    batch = harbour.batch(BatchStatus.PENDING, queued=1)
    with batch.locked() as locked:
        locked.start()

    assert "UTC Processing unknown dialler" in text_of(admin.get(page_of(batch)))


def test_a_batch_that_the_dialler_has_paused_shows_the_reason_until_it_is_resumed(harbour, admin):
    batch = harbour.batch(queued=3)
    claim_next_contact(batch).record_batch_refused(reason="HTTP 402: <b>No</b> credit.")

    text = html.unescape(text_of(admin.get(page_of(batch))))
    assert text.count("Paused by the dialler: HTTP 402: <b>No</b> credit.") == 2
    assert "Reason: Paused by the dialler" in text
    assert "UTC Paused unknown dialler HTTP 402: <b>No</b> credit." in text

    resume(batch)
    text = html.unescape(text_of(admin.get(page_of(batch))))
    assert "Paused by the dialler" not in text
    assert "UTC Paused unknown dialler HTTP 402: <b>No</b> credit." in text


def test_a_batch_that_a_user_has_paused_shows_no_reason(harbour, admin):
    batch = harbour.batch(queued=3)
    pause(batch)

    assert "batch-reason" not in admin.get(page_of(batch)).content.decode()


def test_a_long_history_is_cut_and_says_so(harbour, admin):
    batch = harbour.batch()
    with connection.cursor() as cursor:
        for index in range(HISTORY_SHOWN):
            cursor.execute(
                "UPDATE call_batches SET status = %s WHERE id = %s", [("paused", "processing")[index % 2], batch.pk]
            )

    text = text_of(admin.get(page_of(batch)))

    assert f"Only the latest {HISTORY_SHOWN} entries are shown." in text
    assert "UTC Created" not in text


def test_djangos_history_redirects_to_ours(harbour, admin):
    batch = harbour.batch()

    assert admin.get(f"{BATCHES}{batch.pk}/history/")["Location"] == f"{page_of(batch)}#history"
