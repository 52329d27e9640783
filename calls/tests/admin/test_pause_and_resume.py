"""The admin's way to pause and to resume: with the same care as cancel, whose confirmation it shares."""

from urllib.parse import unquote

import pytest
from django.contrib.admin.models import LogEntry

from calls.models import CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.admin.test_cancel import confirm, confirmation_of, hidden_fields, messages_of, select
from calls.tests.admin.test_pages import page_of, words
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
def test_a_batchs_page_has_the_buttons_that_go_with_its_status(harbour, admin, status, buttons):
    page = words(admin.get(page_of(harbour.batch(status))))

    assert [label for label in ("Pause batch", "Resume batch", "Cancel batch") if label in page] == buttons


@verbs
def test_a_button_leads_to_the_confirmation_which_changes_nothing(harbour, admin, verb):
    batch = harbour.batch(BEFORE[verb], queued=3, in_progress=1)
    before = batch_snapshot(batch)

    assert f'class="button" href="{confirmation_of(batch, verb=verb)}"' in admin.get(page_of(batch)).content.decode()
    text = words(admin.get(confirmation_of(batch, verb=verb)))

    assert f"{verb.title()} 1 batch?" in text
    assert batch_snapshot(batch) == before


def test_the_confirmation_of_a_pause_says_who_waits_and_which_calls_will_finish(harbour, admin):
    batch = harbour.batch(queued=3, in_progress=2)

    text = words(admin.get(confirmation_of(batch, verb="pause")))

    assert "No new call starts until the batch is resumed. Calls in progress go on until they end." in text
    assert "Contacts that wait Calls that will finish" in text
    assert f"{batch.pk} Harbour Spring Processing 3 2" in text
    assert "Pause 1 batch" in text


def test_the_confirmation_of_a_resume_says_that_people_are_called_again(harbour, admin):
    batch = harbour.batch(BatchStatus.PAUSED, queued=3)

    text = words(admin.get(confirmation_of(batch, verb="resume")))

    assert "People are called again" in text
    assert f"{batch.pk} Harbour Spring Paused 3" in text


@verbs
def test_a_mixed_selection_is_done_as_far_as_possible_and_the_page_says_what_is_not(harbour, admin, verb):
    right, wrong = harbour.batch(BEFORE[verb], queued=1), harbour.batch(BatchStatus.PENDING, queued=1)

    text = words(admin.get(confirmation_of(right, wrong, verb=verb)))
    assert f"Cannot be {verb}d Batch Agency Campaign Status Why {wrong.pk}" in text
    ((level, message),) = confirm(admin, right, wrong, verb=verb)

    assert level == "success"
    assert message.startswith(f"Batch {right.pk} (Harbour, Spring): {verb}d")
    assert CallBatch.objects.get(pk=right.pk).status == AFTER[verb]
    assert CallBatch.objects.get(pk=wrong.pk).status == BatchStatus.PENDING


def test_the_outcome_says_what_was_done(harbour, admin):
    batch = harbour.batch(queued=3, in_progress=1)

    ((_, paused),) = confirm(admin, batch, verb="pause")
    ((_, resumed),) = confirm(admin, batch, verb="resume")

    assert paused.endswith("paused. 3 contacts left to call; 1 call in progress will finish.")
    assert resumed.endswith("resumed, and processing again. 3 contacts left to call.")


@verbs
def test_a_batch_that_has_changed_since_the_confirmation_is_told(harbour, admin, verb):
    batch = harbour.batch(BEFORE[verb], queued=1)
    fields = hidden_fields(admin.get(confirmation_of(batch, verb=verb)))
    cancel(batch)

    admin.post(confirmation_of(batch, verb=verb), fields)

    ((level, message),) = messages_of(admin, page_of(batch))
    assert level == "warning"
    assert message.endswith(
        "Only a processing or scheduled batch can be paused; this one is cancelled."
        if verb == "pause"
        else "Only a paused batch can be resumed; this one is cancelled."
    )
    assert count(batch, ContactStatus.SKIPPED) == 1


def test_what_somebody_did_is_in_the_history_and_among_their_recent_actions(harbour, admin, operator):
    batch = harbour.batch(queued=1)

    confirm(admin, batch, verb="pause")

    context = batch.events.latest("pk").pgh_context
    assert context == {
        "actor": {"kind": "staff", "id": str(operator.pk), "label": "operator"},
        "via": "admin",
    }
    assert "paused. 1 contact left to call" in LogEntry.objects.get().get_change_message()


def test_a_paused_batch_is_cancelled_from_its_page(harbour, admin):
    batch = harbour.batch(queued=2)
    pause(batch)

    ((level, message),) = confirm(admin, batch)

    assert (level, count(batch, ContactStatus.SKIPPED)) == ("success", 2)
    assert "cancelled. 2 contacts skipped" in message
