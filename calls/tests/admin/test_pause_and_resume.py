"""Pausing and resuming in the admin. They share the confirmation page with cancel."""

from urllib.parse import unquote

import pytest
from django.contrib.admin.models import LogEntry

from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    confirm,
    confirmation_of,
    hidden_fields,
    messages_at,
    page_of,
    select,
    text_of,
)
from calls.tests.support.factories import batch_snapshot, cancel, count, pause

pytestmark = pytest.mark.django_db

BEFORE = {"pause": BatchStatus.PROCESSING, "resume": BatchStatus.PAUSED}
AFTER = {"pause": BatchStatus.PAUSED, "resume": BatchStatus.PROCESSING}

verbs = pytest.mark.parametrize("verb", ["pause", "resume"])


@verbs
def test_the_action_leads_to_the_confirmation(harbour, admin, verb):
    batch = harbour.batch(BEFORE[verb], queued=1)

    response = select(admin, batch, action=f"{verb}_selected")

    assert unquote(response["Location"]) == confirmation_of(batch, verb=verb)


@pytest.mark.parametrize(
    ("status", "buttons"),
    [
        (BatchStatus.PENDING, ["Cancel batch"]),
        (BatchStatus.SCHEDULED, ["Pause batch", "Cancel batch"]),
        (BatchStatus.PROCESSING, ["Pause batch", "Cancel batch"]),
        (BatchStatus.PAUSED, ["Resume batch", "Cancel batch"]),
        (BatchStatus.FAILED, ["Cancel batch"]),
        (BatchStatus.COMPLETED, []),
        (BatchStatus.CANCELLED, []),
    ],
)
def test_a_batchs_page_has_the_buttons_that_its_status_allows(harbour, admin, status, buttons):
    page = text_of(admin.get(page_of(harbour.batch(status))))

    assert [label for label in ("Pause batch", "Resume batch", "Cancel batch") if label in page] == buttons


@verbs
def test_the_button_leads_to_the_confirmation_which_changes_nothing(harbour, admin, verb):
    batch = harbour.batch(BEFORE[verb], queued=3, in_progress=1)
    before = batch_snapshot(batch)

    assert f'class="button" href="{confirmation_of(batch, verb=verb)}"' in admin.get(page_of(batch)).content.decode()
    text = text_of(admin.get(confirmation_of(batch, verb=verb)))

    assert f"{verb.title()} 1 batch?" in text
    assert batch_snapshot(batch) == before


def test_the_confirmation_of_a_pause_counts_contacts_left_and_calls_that_will_finish(harbour, admin):
    batch = harbour.batch(queued=3, in_progress=2)

    text = text_of(admin.get(confirmation_of(batch, verb="pause")))

    assert "No new call starts until the batch is resumed. Calls in progress continue until they end." in text
    assert "Contacts left to call Calls that will finish" in text
    assert f"{batch.pk} Harbour Spring Processing 3 2" in text
    assert "Pause 1 batch" in text


def test_the_confirmation_of_a_resume_says_that_calls_start_again(harbour, admin):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    text = text_of(admin.get(confirmation_of(batch, verb="resume")))

    assert "Calls start again" in text
    assert f"{batch.pk} Harbour Spring Paused 3" in text


@verbs
def test_of_a_mixed_selection_the_allowed_batches_are_changed_and_the_page_shows_the_others(harbour, admin, verb):
    allowed, refused = harbour.batch(BEFORE[verb], queued=1), harbour.batch(BatchStatus.PENDING, queued=1)

    text = text_of(admin.get(confirmation_of(allowed, refused, verb=verb)))
    assert f"Cannot be {verb}d Batch Agency Campaign Status Why {refused.pk}" in text
    ((level, message),) = confirm(admin, allowed, refused, verb=verb)

    assert level == "success"
    assert message.startswith(f"Batch {allowed.pk} (Harbour, Spring): {verb}d")
    assert CallBatch.objects.get(pk=allowed.pk).status == AFTER[verb]
    assert CallBatch.objects.get(pk=refused.pk).status == BatchStatus.PENDING


def test_the_message_says_what_was_done(harbour, admin):
    batch = harbour.batch(queued=3, in_progress=1)

    ((_, paused),) = confirm(admin, batch, verb="pause")
    ((_, resumed),) = confirm(admin, batch, verb="resume")

    assert paused.endswith("paused. 3 contacts left to call; 1 call in progress will finish.")
    assert resumed.endswith("resumed, and processing again. 3 contacts left to call.")


@verbs
def test_a_batch_that_was_cancelled_since_the_confirmation_is_reported(harbour, admin, verb):
    batch = harbour.batch(BEFORE[verb], queued=1)
    fields = hidden_fields(admin.get(confirmation_of(batch, verb=verb)))
    cancel(batch)

    admin.post(confirmation_of(batch, verb=verb), fields)

    ((level, message),) = messages_at(admin, page_of(batch))
    assert level == "warning"
    assert message.endswith(
        "Only a processing or scheduled batch can be paused; this one is cancelled."
        if verb == "pause"
        else "Only a paused batch can be resumed; this one is cancelled."
    )
    assert count(batch, ContactStatus.SKIPPED) == 1


def test_a_pause_is_in_the_history_and_among_the_operators_recent_actions(harbour, admin, operator):
    batch = harbour.batch(queued=1)

    confirm(admin, batch, verb="pause")

    context = batch.events.latest("pk").pgh_context
    assert context == {
        "actor": {"kind": "staff", "id": str(operator.pk), "label": "operator"},
        "via": "admin",
    }
    assert "paused. 1 contact left to call" in LogEntry.objects.get().get_change_message()


def test_the_reason_of_a_pause_is_kept_and_shown_in_the_history(harbour, admin):
    batch = harbour.batch(queued=1)
    address = confirmation_of(batch, verb="pause")

    admin.post(address, hidden_fields(admin.get(address)) | {"reason": "Wrong script"})

    assert batch.events.latest("pk").pgh_context["reason"] == "Wrong script"
    assert "Paused operator (staff) admin Wrong script" in text_of(admin.get(page_of(batch)))


def test_a_paused_batch_can_be_cancelled(harbour, admin):
    batch = harbour.batch(queued=2)
    pause(batch)

    ((level, message),) = confirm(admin, batch)

    assert (level, count(batch, ContactStatus.SKIPPED)) == ("success", 2)
    assert "cancelled. 2 contacts skipped" in message
