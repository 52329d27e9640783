"""The admin's way to cancel: the action and the button, the confirmation, and what came of it."""

import html
import re
import uuid
from contextlib import contextmanager
from urllib.parse import unquote

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.db import OperationalError, connection
from django.test import Client

from calls.admin.actions import BATCHES_AT_ONCE
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.admin.test_pages import BATCHES, page_of, words
from calls.tests.support.factories import batch_snapshot, cancel, count, staff

pytestmark = pytest.mark.django_db

UNKNOWN = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"


def confirmation_of(*batches, verb="cancel"):
    return f"{BATCHES}{verb}/?ids={','.join(str(getattr(batch, 'pk', batch)) for batch in batches)}"


def hidden_fields(response):
    """What the confirmation's form would send, as a browser reads it."""
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', response.content.decode())
    return {name: html.unescape(value) for name, value in fields}


def confirm(client, *batches, verb="cancel"):
    """Look at the confirmation and press its button: the messages that follow."""
    address = confirmation_of(*batches, verb=verb)
    response = client.post(address, hidden_fields(client.get(address)))
    assert response.status_code == 302
    return messages_of(client, response["Location"])


def messages_of(client, address):
    response = client.get(address)
    return [(message.level_tag, message.message) for message in response.context["messages"]]


def select(client, *batches, address=BATCHES, action="cancel_selected"):
    """Choose batches in the list and the action."""
    return client.post(
        address, {"action": action, "_selected_action": [str(batch.pk) for batch in batches], "index": "0"}
    )


def test_the_action_leads_to_the_confirmation(harbour, admin):
    first, second = harbour.batch(queued=1), harbour.batch(queued=2)

    response = select(admin, first, second)

    assert response.status_code == 302
    assert unquote(response["Location"]) == confirmation_of(second, first)


def test_the_button_leads_to_the_confirmation(harbour, admin):
    batch = harbour.batch(queued=1)

    assert (
        f'<a class="button danger" href="{confirmation_of(batch)}">Cancel batch</a>'
        in admin.get(page_of(batch)).content.decode()
    )


def test_a_batch_that_has_ended_has_no_button(harbour, admin):
    assert "Cancel batch" not in words(admin.get(page_of(harbour.batch(BatchStatus.COMPLETED))))


def test_the_confirmation_says_what_would_happen_and_changes_nothing(harbour, admin):
    batch = harbour.batch(BatchStatus.PAUSED, queued=340, pending=2, in_progress=5, completed=9)
    before = batch_snapshot(batch)

    text = words(admin.get(confirmation_of(batch)))

    assert "This cannot be undone." in text
    assert f"{batch.pk} Harbour Spring Paused 342 5 Skip 342 contacts in 1 batch No, go back" in text
    assert batch_snapshot(batch) == before


def test_it_counts_contacts_and_takes_no_counter_for_it(harbour, admin):
    batch = harbour.batch(queued=3)
    CallBatch.objects.filter(pk=batch.pk).update(queued=999)

    assert "Skip 3 contacts in 1 batch" in words(admin.get(confirmation_of(batch)))


def test_a_mixed_selection_says_which_cannot_be_cancelled_and_why(harbour, bluebell, admin):
    one, other = harbour.batch(queued=1), bluebell.batch(queued=1)
    completed = harbour.batch(BatchStatus.COMPLETED)
    cancelled = harbour.batch()
    cancel(cancelled)
    since = CallBatch.objects.get(pk=cancelled.pk).completed_at

    text = words(admin.get(confirmation_of(one, completed, other, cancelled, UNKNOWN, "nonsense")))

    plans, refusals = text.split("Will be cancelled")[1].split("Cannot be cancelled")
    assert f"{one.pk} Harbour Spring Processing 1 0" in plans
    assert f"{other.pk} Bluebell Spring Processing 1 0" in plans
    assert f"{completed.pk} Harbour Spring Completed Batch is already completed" in refusals
    assert f"Cancelled Batch is already cancelled, since {since:%Y-%m-%d %H:%M:%S} UTC" in refusals
    assert f"{UNKNOWN} Batch not found" in refusals
    assert "nonsense Batch not found" in refusals
    assert "Skip 2 contacts in 2 batches" in refusals


def test_a_mixed_selection_is_cancelled_as_far_as_possible_with_a_message_for_each(harbour, admin):
    first, completed, second = harbour.batch(queued=1), harbour.batch(BatchStatus.COMPLETED), harbour.batch(queued=2)

    messages = confirm(admin, first, completed, UNKNOWN, second)

    done = "cancelled. {} skipped; 0 calls in progress will finish."
    assert messages == [
        ("success", f"Batch {first.pk} (Harbour, Spring): {done.format('1 contact')}"),
        ("success", f"Batch {second.pk} (Harbour, Spring): {done.format('2 contacts')}"),
    ]
    assert [count(batch, ContactStatus.SKIPPED) for batch in (first, second)] == [1, 2]


def test_a_batch_that_has_ended_or_gone_since_the_confirmation_is_told(harbour, admin):
    ended, gone = harbour.batch(), harbour.batch()
    fields = hidden_fields(admin.get(confirmation_of(ended, gone)))
    CallBatch.objects.filter(pk=ended.pk).update(status=BatchStatus.COMPLETED)
    unknown = str(gone.pk)
    gone.delete()

    response = admin.post(confirmation_of(ended, unknown), fields)

    assert messages_of(admin, response["Location"]) == [
        ("warning", f"Batch {ended.pk} (Harbour, Spring): Batch is already completed."),
        ("error", f"Batch {unknown}: Batch not found."),
    ]


def test_with_nothing_to_cancel_there_is_no_button(harbour, admin):
    response = admin.get(confirmation_of(harbour.batch(BatchStatus.COMPLETED)))

    assert "Nothing to cancel" in words(response)
    assert 'class="button danger"' not in response.content.decode()


def test_the_outcome_says_that_the_numbers_have_changed_meanwhile(harbour, admin):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch)))
    CampaignContact.objects.filter(pk=batch.contacts.first().pk).update(status=ContactStatus.IN_PROGRESS)

    admin.post(confirmation_of(batch), fields)

    ((_, message),) = messages_of(admin, page_of(batch))
    assert "2 contacts skipped" in message
    assert message.endswith("The confirmation page had said 3 and 0: that had changed meanwhile.")


def test_the_outcome_says_that_more_contacts_or_other_calls_were_found_than_announced(harbour, admin):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch)))
    harbour.contact(batch).save()
    CallBatch.objects.filter(pk=batch.pk).update(in_progress=2)

    admin.post(confirmation_of(batch), fields)

    ((_, message),) = messages_of(admin, page_of(batch))
    assert message.endswith(
        "4 contacts skipped; 2 calls in progress will finish."
        " The confirmation page had said 3 and 0: that had changed meanwhile."
    )


def test_what_the_confirmation_did_not_offer_is_not_done(harbour, admin, monkeypatch):
    offered, failing = harbour.batch(queued=1), harbour.batch(queued=1)
    works = CallBatch.preview_cancel

    def fails_once(self):
        if self.pk == failing.pk:
            raise BatchUpdateFailed
        return works(self)

    monkeypatch.setattr(CallBatch, "preview_cancel", fails_once)

    assert len(confirm(admin, offered, failing)) == 1
    assert (count(offered, ContactStatus.SKIPPED), count(failing, ContactStatus.SKIPPED)) == (1, 0)


def test_a_request_that_confirms_nothing_is_asked_for_confirmation(harbour, admin):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    response = admin.post(confirmation_of(batch), {"csrfmiddlewaretoken": "x"})

    assert "Skip 3 contacts in 1 batch" in words(response)
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("number", ["nonsense", "", "-1", "9" * 5000])
def test_a_number_that_no_confirmation_can_have_said_is_not_repeated(harbour, admin, number):
    batch = harbour.batch(queued=3)

    admin.post(confirmation_of(batch), {f"confirm-{batch.pk}": number})

    ((_, message),) = messages_of(admin, page_of(batch))
    assert message.endswith("3 contacts skipped; 0 calls in progress will finish.")


def test_an_id_given_twice_or_in_capitals_is_one_batch(harbour, admin):
    batch = harbour.batch(queued=3)

    text = words(admin.get(confirmation_of(f"%20{batch.pk}%0A", str(batch.pk).upper())))
    assert "Skip 3 contacts in 1 batch" in text
    assert "Cannot be cancelled" not in text


def test_a_batch_whose_names_are_missing_can_be_cancelled_all_the_same(harbour, admin):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE campaigns ALTER name DROP NOT NULL")
        cursor.execute("UPDATE campaigns SET name = NULL")
        cursor.execute("ALTER TABLE call_batches ALTER created_at DROP NOT NULL")
        cursor.execute("UPDATE call_batches SET created_at = NULL")

    assert admin.get(BATCHES).status_code == 200
    assert confirm(admin, batch)[0][0] == "success"


def test_a_batch_whose_campaign_is_gone_is_seen_and_does_not_keep_the_others_from_being_cancelled(harbour, admin):
    orphan, other = harbour.batch(queued=3), harbour.batch(queued=1)
    gone = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE call_batches DISABLE TRIGGER ALL")
        cursor.execute("UPDATE call_batches SET campaign_id = %s WHERE id = %s", [gone, orphan.pk])

    assert str(orphan.pk) in admin.get(BATCHES).content.decode()
    assert f"Harbour: campaign {gone}" in words(admin.get(page_of(orphan)))
    assert [level for level, _ in confirm(admin, orphan, other)] == ["success", "success"]
    assert (count(orphan, ContactStatus.SKIPPED), count(other, ContactStatus.SKIPPED)) == (3, 1)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC"])
def test_a_batch_made_at_no_time_that_a_calendar_has_is_seen_and_can_be_cancelled(harbour, admin, moment):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET created_at = %s", [moment])

    assert str(batch.pk) in admin.get(BATCHES).content.decode()
    assert admin.get(page_of(batch)).status_code == 200
    assert confirm(admin, batch)[0][0] == "success"


@pytest.mark.own_tables
def test_a_batch_without_a_status_can_be_cancelled(harbour, admin):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE call_batches ALTER status DROP NOT NULL")
        cursor.execute("UPDATE call_batches SET status = NULL")

    refused = words(admin.get(f"{BATCHES}pause/?ids={batch.pk}"))

    assert "Only a processing or scheduled batch can be paused; this one is without a status." in refused
    assert confirm(admin, batch)[0][0] == "success"


def test_that_recent_actions_cannot_be_noted_is_no_error_and_has_an_end(harbour, admin, caplog):
    batch = harbour.batch(queued=3)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_admin_log RENAME TO django_admin_log_is_gone")

    assert confirm(admin, batch)[0][0] == "success"
    assert "recent actions are not noted: ProgrammingError" in caplog.text


@pytest.mark.parametrize("ids", ["%0A", "a%0Ab", "%0A,%0A", "%00", "..%2F.."])
def test_ids_that_are_none_lead_back_to_the_list(harbour, admin, ids):
    for verb in ("cancel", "pause", "resume"):
        address = f"{BATCHES}{verb}/?ids={ids}"
        looked, sent = admin.get(address), admin.post(address, {"confirm-a": "1"})

        assert {looked.status_code, sent.status_code} <= {200, 302}
        assert f"{BATCHES}" in (looked.headers.get("Location") or looked.content.decode())


def test_a_database_that_cannot_say_which_batches_these_are_is_told(harbour, admin, monkeypatch):
    batch = harbour.batch(queued=3)

    @contextmanager
    def unavailable(**timeouts):
        raise OperationalError
        yield

    monkeypatch.setattr("calls.admin.actions.transaction_with_timeouts", unavailable)

    response = admin.get(confirmation_of(batch))

    assert messages_of(admin, response["Location"]) == [
        ("error", "Failed to update batch status. Try again: that is safe.")
    ]


def test_pressing_the_button_again_is_harmless_and_says_since_when_it_is_cancelled(harbour, admin):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch)))
    admin.post(confirmation_of(batch), fields)
    messages_of(admin, page_of(batch))
    before = batch_snapshot(batch)

    admin.post(confirmation_of(batch), fields)

    since = CallBatch.objects.get(pk=batch.pk).completed_at
    assert messages_of(admin, page_of(batch)) == [
        (
            "warning",
            f"Batch {batch.pk} (Harbour, Spring): Batch is already cancelled, since {since:%Y-%m-%d %H:%M:%S} UTC.",
        )
    ]
    assert batch_snapshot(batch) == before


def test_one_batch_that_fails_does_not_keep_the_others(harbour, admin, monkeypatch):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    works = CallBatch.locked

    def fails_once(self, *columns):
        if self.pk == first.pk:
            raise OperationalError
        return works(self, *columns)

    monkeypatch.setattr(CallBatch, "locked", fails_once)

    messages = confirm(admin, first, second)

    assert messages[0] == (
        "error",
        f"Batch {first.pk} (Harbour, Spring): Failed to update batch status. Try again: that is safe.",
    )
    assert (count(first, ContactStatus.SKIPPED), count(second, ContactStatus.SKIPPED)) == (0, 1)


def test_the_history_names_who_pressed_it(harbour, admin, operator):
    batch = harbour.batch(queued=3)

    confirm(admin, batch)

    assert batch.events.last().pgh_context == {
        "actor": {"kind": "staff", "id": str(operator.pk), "label": "operator"},
        "via": "admin",
        "contacts_skipped": 3,
    }


def test_after_it_the_list_is_filtered_as_before(harbour, admin):
    first, second = harbour.batch(queued=1), harbour.batch(queued=1)
    address = select(admin, first, second, address=f"{BATCHES}?status=processing")["Location"]

    response = admin.post(address, hidden_fields(admin.get(address)))

    assert response["Location"] == f"{BATCHES}?status=processing"


def test_a_batch_that_has_left_the_filter_meanwhile_is_cancelled_all_the_same(harbour, admin):
    batch = harbour.batch(queued=1)
    address = select(admin, batch, address=f"{BATCHES}?status=processing")["Location"]
    fields = hidden_fields(admin.get(address))
    CallBatch.objects.filter(pk=batch.pk).update(status=BatchStatus.PAUSED)

    response = admin.post(address, fields)

    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED
    assert response["Location"] == f"{page_of(batch)}?_changelist_filters=status%3Dprocessing"


def test_a_full_page_of_batches_is_cancelled_at_once(harbour, admin):
    batches = [harbour.batch(queued=1) for _ in range(BATCHES_AT_ONCE)]

    assert [level for level, _ in confirm(admin, *batches)] == ["success"] * BATCHES_AT_ONCE


@pytest.mark.parametrize("selected", ["nonsense", "\0", "9" * 40])
def test_a_selection_of_no_batch_is_told(harbour, admin, selected):
    response = admin.post(BATCHES, {"action": "cancel_selected", "_selected_action": [selected], "index": "0"})

    assert messages_of(admin, response["Location"]) == [
        ("error", "That is no selection of batches. Nothing was changed.")
    ]


def test_what_somebody_did_is_among_their_recent_actions(harbour, admin):
    batch = harbour.batch(queued=3)

    confirm(admin, batch)

    (entry,) = LogEntry.objects.all()
    assert (entry.object_id, entry.get_change_message()) == (
        str(batch.pk),
        "cancelled. 3 contacts skipped; 0 calls in progress will finish.",
    )


@pytest.mark.parametrize("ids", ["", ",", ",".join([UNKNOWN[:-2] + f"{n:02x}" for n in range(BATCHES_AT_ONCE + 1)])])
def test_none_or_too_many_are_not_even_asked_about(admin, ids):
    response = admin.get(f"{BATCHES}cancel/?ids={ids}")

    assert messages_of(admin, response["Location"]) == [("error", f"Select 1 to {BATCHES_AT_ONCE} batches to cancel.")]


def test_a_selection_across_pages_is_cut_off_with_a_word(harbour, admin):
    CallBatch.objects.bulk_create(
        CallBatch(agency=harbour.agency, campaign=harbour.campaign, agent_mapping=harbour.agent, from_number="+1")
        for _ in range(BATCHES_AT_ONCE + 1)
    )

    response = admin.post(
        BATCHES,
        {
            "action": "cancel_selected",
            "_selected_action": [str(CallBatch.objects.first().pk)],
            "select_across": "1",
            "index": "0",
        },
    )

    assert [str(message) for message in get_messages(response.wsgi_request)] == [
        f"Select at most {BATCHES_AT_ONCE} batches at a time."
    ]
    assert not CallBatch.objects.exclude(status=BatchStatus.PENDING).exists()


# Permission


@pytest.mark.parametrize("permissions", [["view_callbatch"], ["view_callbatch", "change_callbatch"]], ids=str)
def test_without_the_permission_neither_action_nor_button_nor_a_hand_made_request_works(harbour, permissions):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(staff("somebody", *permissions))

    assert "cancel_selected" not in client.get(BATCHES).content.decode()
    assert "Cancel batch" not in client.get(page_of(batch)).content.decode()
    assert "cancel/" not in select(client, batch).headers.get("Location", "")
    assert client.get(confirmation_of(batch)).status_code == 403
    assert client.post(confirmation_of(batch)).status_code == 403
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_the_list_offers_only_what_somebody_may_do(harbour, verb):
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(staff("somebody", "view_callbatch", f"{verb}_callbatch"))
    harbour.batch(queued=1)

    offered = re.findall(r'<option value="(\w+_selected)"', client.get(BATCHES).content.decode())

    assert offered == [f"{verb}_selected"]


def test_a_request_forged_by_another_site_is_refused_and_the_pages_own_is_taken(harbour, operator):
    batch = harbour.batch(queued=3)
    client = Client(enforce_csrf_checks=True, headers={"Origin": "https://testserver"})
    client.force_login(operator)
    fields = hidden_fields(client.get(confirmation_of(batch), secure=True))

    forged = {name: value for name, value in fields.items() if name != "csrfmiddlewaretoken"}
    assert client.post(confirmation_of(batch), forged, secure=True).status_code == 403
    assert count(batch, ContactStatus.QUEUED) == 3

    assert client.post(confirmation_of(batch), fields, secure=True).status_code == 302
    assert count(batch, ContactStatus.SKIPPED) == 3


def test_the_group_may_look_cancel_pause_and_resume_and_nothing_else(operator):
    assert operator.get_all_permissions() == {
        "calls.view_callbatch",
        "calls.cancel_callbatch",
        "calls.pause_callbatch",
        "calls.resume_callbatch",
        "calls.view_campaigncontact",
    }
