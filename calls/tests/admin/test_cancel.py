"""Cancelling in the admin: what is done after the confirmation, and what is reported."""

import uuid

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError, connection

from calls.admin.selection import BATCHES_AT_ONCE
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    BATCHES,
    UNKNOWN_ID,
    confirm,
    confirmation_of,
    hidden_fields,
    messages_at,
    page_of,
    select,
    text_of,
)
from calls.tests.support.factories import batch_snapshot, count

pytestmark = pytest.mark.django_db


def test_of_a_mixed_selection_each_batch_that_can_be_cancelled_is_cancelled_with_a_message(harbour, admin):
    first, completed, second = harbour.batch(queued=1), harbour.batch(BatchStatus.COMPLETED), harbour.batch(queued=2)

    messages = confirm(admin, first, completed, UNKNOWN_ID, second)

    done = "cancelled. {} skipped; 0 calls in progress will finish."
    assert messages == [
        ("success", f"Batch {first.pk} (Harbour, Spring): {done.format('1 contact')}"),
        ("success", f"Batch {second.pk} (Harbour, Spring): {done.format('2 contacts')}"),
    ]
    assert [count(batch, ContactStatus.SKIPPED) for batch in (first, second)] == [1, 2]


def test_a_full_page_of_batches_is_cancelled_by_one_confirmation(harbour, admin):
    batches = [harbour.batch(queued=1) for _ in range(BATCHES_AT_ONCE)]

    assert [level for level, _ in confirm(admin, *batches)] == ["success"] * BATCHES_AT_ONCE


def test_a_batch_that_was_completed_or_deleted_since_the_confirmation_is_reported(harbour, admin):
    completed, deleted = harbour.batch(), harbour.batch()
    fields = hidden_fields(admin.get(confirmation_of(completed, deleted)))
    CallBatch.objects.filter(pk=completed.pk).update(status=BatchStatus.COMPLETED)
    deleted_id = str(deleted.pk)
    deleted.delete()

    response = admin.post(confirmation_of(completed, deleted_id), fields)

    assert messages_at(admin, response["Location"]) == [
        ("warning", f"Batch {completed.pk} (Harbour, Spring): Batch is already completed."),
        ("error", f"Batch {deleted_id}: Batch not found."),
    ]


def test_a_database_error_in_one_batch_does_not_affect_the_others(harbour, admin, monkeypatch):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    locked = CallBatch.locked

    def fail_for_one(self, *columns):
        if self.pk == first.pk:
            raise OperationalError
        return locked(self, *columns)

    monkeypatch.setattr(CallBatch, "locked", fail_for_one)

    messages = confirm(admin, first, second)

    assert messages[0] == (
        "error",
        f"Batch {first.pk} (Harbour, Spring): Failed to update batch status. It is safe to try again.",
    )
    assert (count(first, ContactStatus.SKIPPED), count(second, ContactStatus.SKIPPED)) == (0, 1)


def test_pressing_the_button_again_changes_nothing_and_says_when_the_batch_was_cancelled(harbour, admin):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch)))
    admin.post(confirmation_of(batch), fields)
    messages_at(admin, page_of(batch))
    before = batch_snapshot(batch)

    admin.post(confirmation_of(batch), fields)

    since = CallBatch.objects.get(pk=batch.pk).completed_at
    assert messages_at(admin, page_of(batch)) == [
        (
            "warning",
            f"Batch {batch.pk} (Harbour, Spring): Batch is already cancelled, since {since:%Y-%m-%d %H:%M:%S} UTC.",
        )
    ]
    assert batch_snapshot(batch) == before


def test_the_message_says_that_the_numbers_have_changed_since_the_confirmation(harbour, admin):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch)))
    CampaignContact.objects.filter(pk=batch.contacts.first().pk).update(status=ContactStatus.IN_PROGRESS)

    admin.post(confirmation_of(batch), fields)

    ((_, message),) = messages_at(admin, page_of(batch))
    assert "2 contacts skipped" in message
    assert message.endswith("The confirmation page showed 3 and 0; these have changed.")


def test_the_message_says_that_more_contacts_and_calls_were_found_than_announced(harbour, admin):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch)))
    harbour.contact(batch).save()
    CallBatch.objects.filter(pk=batch.pk).update(in_progress=2)

    admin.post(confirmation_of(batch), fields)

    ((_, message),) = messages_at(admin, page_of(batch))
    assert message.endswith(
        "4 contacts skipped; 2 calls in progress will finish. The confirmation page showed 3 and 0; these have changed."
    )


def test_the_history_names_the_operator(harbour, admin, operator):
    batch = harbour.batch(queued=3)

    confirm(admin, batch)

    assert batch.events.last().pgh_context == {
        "actor": {"kind": "staff", "id": str(operator.pk), "label": "operator"},
        "via": "admin",
        "contacts_skipped": 3,
    }


def test_the_reason_is_kept_with_each_batch_and_shown_in_its_history(harbour, admin):
    first, second = harbour.batch(queued=1), harbour.batch(queued=2)
    address = confirmation_of(first, second)

    admin.post(address, hidden_fields(admin.get(address)) | {"reason": " The client <b>called</b> \n"})

    for batch in (first, second):
        assert batch.events.last().pgh_context["reason"] == "The client <b>called</b>"
    assert "The client &lt;b&gt;called&lt;/b&gt;" in text_of(admin.get(page_of(first)))


@pytest.mark.parametrize("reason", ["", " ", None])
def test_a_cancel_without_a_reason_records_none(harbour, admin, reason):
    batch = harbour.batch(queued=1)
    fields = hidden_fields(admin.get(confirmation_of(batch)))

    admin.post(confirmation_of(batch), fields if reason is None else fields | {"reason": reason})

    context = batch.events.last().pgh_context
    assert (context["contacts_skipped"], "reason" in context) == (1, False)


def test_the_cancel_is_among_the_operators_recent_actions(harbour, admin):
    batch = harbour.batch(queued=3)

    confirm(admin, batch)

    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, entry.get_change_message()) == (
        str(batch.pk),
        "cancelled. 3 contacts skipped; 0 calls in progress will finish.",
    )


def test_an_error_while_logging_recent_actions_does_not_fail_the_request(harbour, admin, caplog):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_admin_log RENAME TO django_admin_log_is_gone")

    assert confirm(admin, batch)[0][0] == "success"
    assert "recent actions are not logged: ProgrammingError" in caplog.text


def test_afterwards_the_list_is_filtered_as_before(harbour, admin):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    address = select(admin, first, second, address=f"{BATCHES}?status=processing")["Location"]

    response = admin.post(address, hidden_fields(admin.get(address)))

    assert response["Location"] == f"{BATCHES}?status=processing"


def test_a_batch_that_no_longer_matches_the_filter_is_still_cancelled(harbour, admin):
    batch = harbour.batch(queued=1)
    address = select(admin, batch, address=f"{BATCHES}?status=processing")["Location"]
    fields = hidden_fields(admin.get(address))
    CallBatch.objects.filter(pk=batch.pk).update(status=BatchStatus.PAUSED)

    response = admin.post(address, fields)

    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED
    assert response["Location"] == f"{page_of(batch)}?_changelist_filters=status%3Dprocessing"


def test_a_batch_without_a_campaign_name_or_creation_time_can_be_cancelled(harbour, admin):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE campaigns ALTER name DROP NOT NULL")
        cursor.execute("UPDATE campaigns SET name = NULL")
        cursor.execute("ALTER TABLE call_batches ALTER created_at DROP NOT NULL")
        cursor.execute("UPDATE call_batches SET created_at = NULL")

    assert admin.get(BATCHES).status_code == 200
    assert confirm(admin, batch)[0][0] == "success"


def test_a_batch_whose_campaign_was_deleted_is_shown_and_can_be_cancelled_with_others(harbour, admin):
    orphan, other = harbour.batch(queued=3), harbour.batch(queued=1)
    deleted_id = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE call_batches DISABLE TRIGGER ALL")
        cursor.execute("UPDATE call_batches SET campaign_id = %s WHERE id = %s", [deleted_id, orphan.pk])

    assert str(orphan.pk) in admin.get(BATCHES).content.decode()
    assert f"Harbour: campaign {deleted_id}" in text_of(admin.get(page_of(orphan)))
    assert [level for level, _ in confirm(admin, orphan, other)] == ["success", "success"]
    assert (count(orphan, ContactStatus.SKIPPED), count(other, ContactStatus.SKIPPED)) == (3, 1)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC"])
def test_a_batch_with_a_creation_time_that_python_cannot_represent_is_shown_and_can_be_cancelled(
    harbour, admin, moment
):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET created_at = %s", [moment])

    assert str(batch.pk) in admin.get(BATCHES).content.decode()
    assert admin.get(page_of(batch)).status_code == 200
    assert confirm(admin, batch)[0][0] == "success"


@pytest.mark.not_adopted
def test_a_batch_without_a_status_can_be_cancelled(harbour, admin):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE call_batches ALTER status DROP NOT NULL")
        cursor.execute("UPDATE call_batches SET status = NULL")

    refused = text_of(admin.get(f"{BATCHES}pause/?ids={batch.pk}"))

    assert "Only a processing or scheduled batch can be paused; this one is without a status." in refused
    assert confirm(admin, batch)[0][0] == "success"
