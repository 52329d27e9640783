"""Cancelling all batches of an agency in the admin: the preview, what is done, and what is reported."""

import pytest
from django.contrib.admin.models import LogEntry
from django.db import InterfaceError, OperationalError, connection
from django.test import Client
from psycopg.errors import LockNotAvailable

from calls.admin.agency_actions import MAX_MESSAGES
from calls.models import CallBatch
from calls.models.querysets import CallBatchQuerySet
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    AGENCIES,
    UNKNOWN_ID,
    agency_page_of,
    hidden_fields,
    messages_at,
    queries,
    select,
    signed_in,
    text_of,
)
from calls.tests.support.factories import batch_snapshot, count, staff

pytestmark = pytest.mark.django_db

BUTTON = "Cancel all batches of this agency"
UNREADABLE = "The numbers could not be read. You can still cancel the batches."


def preview_of(tenant):
    return agency_page_of(tenant, "cancel-all")


def cancel_all(client, tenant, **fields):
    """Press the button without having seen the preview. Return the messages that follow."""
    response = client.post(preview_of(tenant), fields)
    assert (response.status_code, response["Location"]) == (302, agency_page_of(tenant))
    return messages_at(client, response["Location"])


def status_of(batch):
    return CallBatch.objects.values_list("status", flat=True).get(pk=batch.pk)


def statement_timeout():
    """Return an error of one statement. The connection is not lost."""
    error = OperationalError()
    error.__cause__ = LockNotAvailable()
    return error


def fail_in(monkeypatch, method, *batches, error):
    """Let this method of ``CallBatch`` fail for these batches."""
    original = getattr(CallBatch, method)
    failing = {batch.pk for batch in batches}

    def fail(self, *args, **kwargs):
        if self.pk in failing:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(CallBatch, method, fail)


# What leads to the preview


def test_the_agencys_page_has_a_button(harbour, admin):
    page = admin.get(agency_page_of(harbour)).content.decode()

    assert f'<a class="button danger" href="{preview_of(harbour)}">{BUTTON}</a>' in page


def test_the_action_in_the_list_leads_to_the_preview_of_one_agency(harbour, admin):
    response = select(admin, harbour.agency, address=AGENCIES, action="cancel_all_batches")

    assert (response.status_code, response["Location"]) == (302, preview_of(harbour))


def test_the_action_in_the_list_refuses_two_agencies(harbour, bluebell, admin):
    batch = harbour.batch(queued=1)

    response = select(admin, harbour.agency, bluebell.agency, address=AGENCIES, action="cancel_all_batches")

    assert messages_at(admin, response["Location"]) == [("error", "Select one agency at a time. Nothing was changed.")]
    assert status_of(batch) == BatchStatus.PROCESSING


# The preview


def test_the_preview_shows_the_numbers_of_each_batch_and_their_sum_and_changes_nothing(harbour, bluebell, admin):
    first = harbour.batch(queued=3, in_progress=2, completed=1)
    second = harbour.batch(BatchStatus.PAUSED, pending=4)
    ended, other = harbour.batch(BatchStatus.COMPLETED), bluebell.batch(queued=1)
    CallBatch.objects.filter(pk=first.pk).update(queued=999)
    before = [batch_snapshot(batch) for batch in (first, second, ended, other)]

    text = text_of(admin.get(preview_of(harbour)))

    assert "2 batches to cancel, 7 contacts to skip; 2 calls in progress will finish." in text
    assert f"{first.pk} Harbour Spring Processing 3 2" in text
    assert f"{second.pk} Harbour Spring Paused 4 0" in text
    assert "This cannot be undone." in text
    assert text.endswith(f"{BUTTON} No, go back")
    assert str(ended.pk) not in text
    assert str(other.pk) not in text
    assert [batch_snapshot(batch) for batch in (first, second, ended, other)] == before


def test_the_preview_of_an_agency_without_batches_says_so(harbour, admin):
    assert "The agency has no batch to cancel." in text_of(admin.get(preview_of(harbour)))


def test_the_preview_reads_the_names_of_all_batches_at_once(harbour, admin):
    def batches(count):
        for _ in range(count):
            harbour.batch(queued=1)

    batches(3)
    few = queries(admin, preview_of(harbour))
    batches(1)
    each = len(queries(admin, preview_of(harbour))) - len(few)
    batches(26)

    assert len(queries(admin, preview_of(harbour))) == len(few) + 27 * each
    # The savepoint and its release, the timeouts, the batch's row and the count of its contacts.
    assert each == 5


@pytest.mark.parametrize("method", ["only", "prefetch_related"])
def test_the_button_appears_when_the_numbers_or_the_names_cannot_be_read(harbour, admin, monkeypatch, method):
    batch = harbour.batch(queued=1)

    def fail(self, *names):
        raise OperationalError

    monkeypatch.setattr(CallBatchQuerySet, method, fail)

    page = admin.get(preview_of(harbour))

    assert page.status_code == 200
    assert UNREADABLE in text_of(page)
    assert f">{BUTTON}</button>" in page.content.decode()
    assert str(batch.pk) not in text_of(page)


def test_a_batch_whose_numbers_cannot_be_read_is_shown_with_the_reason(harbour, admin, monkeypatch):
    first, second = harbour.batch(queued=1), harbour.batch(queued=2)
    fail_in(monkeypatch, "_read", first, error=statement_timeout())

    text = text_of(admin.get(preview_of(harbour)))

    assert "1 batch to cancel, 2 contacts to skip; 0 calls in progress will finish." in text
    assert "The numbers of 1 batch could not be read; a cancel will still be attempted." in text
    assert f"{second.pk} Harbour Spring Processing 2 0" in text
    assert f"{first.pk} Harbour Spring Processing Failed to update batch status. It is safe to try again." in text


def test_a_batch_whose_campaign_was_deleted_is_previewed_and_cancelled(harbour, admin):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE call_batches DISABLE TRIGGER ALL")
        cursor.execute("UPDATE call_batches SET campaign_id = %s", [UNKNOWN_ID])

    assert f"{batch.pk} Harbour Processing 3 0" in text_of(admin.get(preview_of(harbour)))
    assert cancel_all(admin, harbour)[0][0] == "success"


# What is done


def test_a_post_without_the_preview_cancels_every_batch_of_the_agency(harbour, bluebell, admin, operator):
    statuses = [BatchStatus.PENDING, BatchStatus.SCHEDULED, BatchStatus.PROCESSING, BatchStatus.PAUSED]
    batches = [harbour.batch(status, queued=2) for status in [*statuses, BatchStatus.FAILED]]
    completed, other = harbour.batch(BatchStatus.COMPLETED), bluebell.batch(queued=1)
    in_progress = harbour.batch(in_progress=3)

    messages = cancel_all(admin, harbour, reason="The client called")

    assert messages == [("success", "6 batches cancelled, 10 contacts skipped; 3 calls in progress will finish.")]
    assert {status_of(batch) for batch in [*batches, in_progress]} == {BatchStatus.CANCELLED}
    assert [count(batch, ContactStatus.SKIPPED) for batch in batches] == [2] * 5
    assert (status_of(completed), status_of(other)) == (BatchStatus.COMPLETED, BatchStatus.PROCESSING)
    for batch in batches:
        assert batch.events.latest("pk").pgh_context == {
            "actor": {"kind": "staff", "id": str(operator.pk), "label": "operator"},
            "via": "admin",
            "contacts_skipped": 2,
            "reason": "The client called",
        }


def test_a_batch_that_was_created_since_the_preview_is_cancelled_too(harbour, admin):
    harbour.batch(queued=1)
    fields = hidden_fields(admin.get(preview_of(harbour)))
    later = harbour.batch(queued=5)

    admin.post(preview_of(harbour), fields)

    assert status_of(later) == BatchStatus.CANCELLED


def test_the_cancel_of_all_is_among_the_operators_recent_actions(harbour, admin):
    harbour.batch(queued=1)

    cancel_all(admin, harbour)

    entry = LogEntry.objects.get()
    assert entry.object_id == str(harbour.agency.pk)
    assert entry.get_change_message().startswith("1 batch cancelled, 1 contact skipped")


def test_an_agency_without_a_batch_to_cancel_is_reported(harbour, admin):
    harbour.batch(BatchStatus.COMPLETED)

    assert cancel_all(admin, harbour) == [("info", "Harbour has no batch to cancel.")]
    assert LogEntry.objects.count() == 0


def test_pressing_the_button_again_changes_nothing(harbour, admin):
    batch = harbour.batch(queued=2)
    cancel_all(admin, harbour)
    before = batch_snapshot(batch)

    assert cancel_all(admin, harbour) == [("info", "Harbour has no batch to cancel.")]
    assert batch_snapshot(batch) == before


def test_failed_batches_are_reported_by_name_and_the_others_are_cancelled(harbour, admin, monkeypatch):
    first, second = harbour.batch(queued=1), harbour.batch(queued=2)
    fail_in(monkeypatch, "locked", first, error=statement_timeout())

    messages = cancel_all(admin, harbour)

    text = "1 batch cancelled, 2 contacts skipped; 0 calls in progress will finish. 1 batch could not be cancelled."
    name = f"Batch {first.pk} (Harbour, Spring)"
    assert messages == [
        ("warning", text),
        ("error", f"{name}: Failed to update batch status. It is safe to try again."),
    ]
    assert (status_of(first), status_of(second)) == (BatchStatus.PROCESSING, BatchStatus.CANCELLED)


def test_failed_batches_are_named_by_their_ids_when_their_names_cannot_be_read(harbour, admin, monkeypatch):
    batch = harbour.batch(queued=1)
    fail_in(monkeypatch, "locked", batch, error=InterfaceError())

    def fail(self, *names):
        raise OperationalError

    monkeypatch.setattr(CallBatchQuerySet, "prefetch_related", fail)
    response = admin.post(preview_of(harbour))
    monkeypatch.undo()

    assert messages_at(admin, response["Location"])[1:] == [
        ("error", f"Batch {batch.pk}: Failed to update batch status. It is safe to try again.")
    ]


def test_more_failed_batches_than_fit_on_a_page_are_counted(harbour, admin, monkeypatch):
    batches = [harbour.batch(queued=1) for _ in range(MAX_MESSAGES + 2)]
    fail_in(monkeypatch, "locked", *batches, error=statement_timeout())

    messages = cancel_all(admin, harbour)

    assert len(messages) == MAX_MESSAGES + 2
    assert messages[-1] == ("error", "2 more batches could not be cancelled.")


def test_a_database_error_before_the_first_batch_is_reported(harbour, admin, monkeypatch):
    harbour.batch(queued=1)

    def fail(self, *columns):
        raise OperationalError

    monkeypatch.setattr(CallBatchQuerySet, "only", fail)

    assert cancel_all(admin, harbour) == [("error", "Failed to update batch status. It is safe to try again.")]


def test_an_error_while_logging_recent_actions_does_not_fail_the_request(harbour, admin, caplog):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_admin_log RENAME TO django_admin_log_is_gone")

    assert cancel_all(admin, harbour)[0][0] == "success"
    assert status_of(batch) == BatchStatus.CANCELLED
    assert "recent actions are not logged: ProgrammingError" in caplog.text


def test_a_reason_that_is_too_long_shows_the_page_again_with_the_operators_text(harbour, admin):
    batch = harbour.batch(queued=3)

    response = admin.post(preview_of(harbour), {"reason": "x" * 501})

    assert response.status_code == 200
    assert "at most 500 characters" in text_of(response)
    assert f'value="{"x" * 501}"' in response.content.decode()
    assert "1 batch to cancel, 3 contacts to skip" in text_of(response)
    assert status_of(batch) == BatchStatus.PROCESSING


# Which requests are refused


@pytest.mark.parametrize(
    "permissions",
    [["view_agency", "view_callbatch"], ["view_agency", "cancel_callbatch"], ["view_callbatch", "cancel_callbatch"]],
    ids=str,
)
def test_it_needs_the_permissions_to_view_agencies_and_batches_and_to_cancel(harbour, permissions):
    batch = harbour.batch(queued=1)
    client = signed_in(staff("employee", *permissions))

    assert client.get(preview_of(harbour)).status_code == 403
    assert client.post(preview_of(harbour)).status_code == 403
    assert status_of(batch) == BatchStatus.PROCESSING
    if "view_agency" in permissions:
        assert BUTTON not in client.get(agency_page_of(harbour)).content.decode()
        assert "cancel_all_batches" not in client.get(AGENCIES).content.decode()


def test_cancelling_all_does_not_need_the_hold_permission(harbour):
    batch = harbour.batch(queued=1)
    client = signed_in(staff("employee", "view_agency", "view_callbatch", "cancel_callbatch"))

    assert cancel_all(client, harbour)[0][0] == "success"
    assert status_of(batch) == BatchStatus.CANCELLED


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_only_a_post_changes_anything(harbour, admin, method):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    response = admin.generic(method, preview_of(harbour))

    assert response.status_code == (200 if method in ("GET", "HEAD") else 405)
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_agency_is_not_found(admin, method):
    assert admin.generic(method, f"{AGENCIES}{UNKNOWN_ID}/cancel-all/").status_code == 404


def test_a_request_from_another_site_is_refused(harbour, operator):
    batch = harbour.batch(queued=1)
    client = Client(enforce_csrf_checks=True, headers={"Origin": "https://testserver"})
    client.force_login(operator)

    assert client.post(preview_of(harbour), secure=True).status_code == 403
    assert status_of(batch) == BatchStatus.PROCESSING
