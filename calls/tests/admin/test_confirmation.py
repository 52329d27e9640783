"""The confirmation page: what leads to it, what it shows, and which requests it refuses."""

from contextlib import contextmanager
from urllib.parse import unquote

import pytest
from django.contrib.messages import get_messages
from django.db import OperationalError

from calls.admin.selection import BATCHES_AT_ONCE
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch
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
from calls.tests.support.factories import batch_snapshot, cancel, count

pytestmark = pytest.mark.django_db


def test_the_action_leads_to_the_confirmation(harbour, admin):
    first, second = harbour.batch(queued=1), harbour.batch(queued=2)

    response = select(admin, first, second)

    assert response.status_code == 302
    assert unquote(response["Location"]) == confirmation_of(first, second)


def test_the_button_leads_to_the_confirmation(harbour, admin):
    batch = harbour.batch(queued=1)

    assert (
        f'<a class="button danger" href="{confirmation_of(batch)}">Cancel batch</a>'
        in admin.get(page_of(batch)).content.decode()
    )


def test_a_finished_batch_has_no_button(harbour, admin):
    assert "Cancel batch" not in text_of(admin.get(page_of(harbour.batch(BatchStatus.COMPLETED))))


def test_it_shows_what_would_happen_and_changes_nothing(harbour, admin):
    batch = harbour.batch(BatchStatus.PAUSED, queued=340, pending=2, in_progress=5, completed=9)
    before = batch_snapshot(batch)

    text = text_of(admin.get(confirmation_of(batch)))

    assert "This cannot be undone." in text
    assert f"{batch.pk} Harbour Spring Paused 342 5 Reason:" in text
    assert text.endswith("Skip 342 contacts in 1 batch No, go back")
    assert batch_snapshot(batch) == before


def test_it_counts_contacts_instead_of_trusting_the_counter(harbour, admin):
    batch = harbour.batch(queued=3)
    CallBatch.objects.filter(pk=batch.pk).update(queued=999)

    assert "Skip 3 contacts in 1 batch" in text_of(admin.get(confirmation_of(batch)))


def test_it_shows_which_batches_cannot_be_cancelled_and_why(harbour, bluebell, admin):
    harbour_batch, bluebell_batch = harbour.batch(queued=1), bluebell.batch(queued=1)
    completed = harbour.batch(BatchStatus.COMPLETED)
    cancelled = harbour.batch()
    cancel(cancelled)
    since = CallBatch.objects.get(pk=cancelled.pk).completed_at

    text = text_of(
        admin.get(confirmation_of(harbour_batch, completed, bluebell_batch, cancelled, UNKNOWN_ID, "nonsense"))
    )

    plans, refusals = text.split("Will be cancelled")[1].split("Cannot be cancelled")
    assert f"{harbour_batch.pk} Harbour Spring Processing 1 0" in plans
    assert f"{bluebell_batch.pk} Bluebell Spring Processing 1 0" in plans
    assert f"{completed.pk} Harbour Spring Completed Batch is already completed" in refusals
    assert f"Cancelled Batch is already cancelled, since {since:%Y-%m-%d %H:%M:%S} UTC" in refusals
    assert f"{UNKNOWN_ID} Batch not found" in refusals
    assert "nonsense Batch not found" in refusals
    assert "Skip 2 contacts in 2 batches" in refusals


def test_without_a_batch_to_cancel_it_has_no_button(harbour, admin):
    response = admin.get(confirmation_of(harbour.batch(BatchStatus.COMPLETED)))

    assert "Nothing to cancel" in text_of(response)
    assert 'class="button danger"' not in response.content.decode()


def test_an_id_given_twice_or_in_capitals_is_one_batch(harbour, admin):
    batch = harbour.batch(queued=3)

    text = text_of(admin.get(confirmation_of(f"%20{batch.pk}%0A", str(batch.pk).upper())))
    assert "Skip 3 contacts in 1 batch" in text
    assert "Cannot be cancelled" not in text


def test_a_post_that_confirms_nothing_shows_the_confirmation(harbour, admin):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)

    response = admin.post(confirmation_of(batch), {"csrfmiddlewaretoken": "x"})

    assert "Skip 3 contacts in 1 batch" in text_of(response)
    assert batch_snapshot(batch) == before


def test_a_batch_that_was_not_offered_is_not_cancelled(harbour, admin, monkeypatch):
    offered, failing = harbour.batch(queued=1), harbour.batch(queued=1)
    preview_cancel = CallBatch.preview_cancel

    def fail_for_one(self):
        if self.pk == failing.pk:
            raise BatchUpdateFailed
        return preview_cancel(self)

    monkeypatch.setattr(CallBatch, "preview_cancel", fail_for_one)

    assert len(confirm(admin, offered, failing)) == 1
    assert (count(offered, ContactStatus.SKIPPED), count(failing, ContactStatus.SKIPPED)) == (1, 0)


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_refused(harbour, admin, method):
    response = getattr(admin, method)(confirmation_of(harbour.batch(queued=3)))

    assert response.status_code == 405


def test_a_batch_that_was_not_selected_is_not_cancelled(harbour, admin):
    selected, other = harbour.batch(queued=1), harbour.batch(queued=1)

    response = admin.post(confirmation_of(selected), {"batch_ids": [selected.pk, other.pk]})

    assert "Skip 1 contact in 1 batch" in text_of(response)
    assert count(selected, ContactStatus.SKIPPED) == count(other, ContactStatus.SKIPPED) == 0


def test_a_batch_that_is_confirmed_twice_is_cancelled_once(harbour, admin):
    batch = harbour.batch(queued=1)

    admin.post(confirmation_of(batch), {"batch_ids": [batch.pk, batch.pk]})

    ((level, _),) = messages_at(admin, page_of(batch))
    assert level == "success"


@pytest.mark.parametrize("number", ["nonsense", "", "-1", "9" * 5000, '{"%s": [1, 2]}', "eyI6WzEsMl19:1:signature"])
def test_forged_announced_numbers_are_ignored(harbour, admin, number):
    batch = harbour.batch(queued=3)

    admin.post(confirmation_of(batch), {"batch_ids": batch.pk, "announced": number.replace("%s", str(batch.pk))})

    ((_, message),) = messages_at(admin, page_of(batch))
    assert message.endswith("3 contacts skipped; 0 calls in progress will finish.")


@pytest.mark.parametrize("ids", ["%0A", "a%0Ab", "%0A,%0A", "%00", "..%2F.."])
def test_malformed_ids_lead_back_to_the_list(harbour, admin, ids):
    for verb in ("cancel", "pause", "resume"):
        address = f"{BATCHES}{verb}/?ids={ids}"
        page, result = admin.get(address), admin.post(address, {"batch_ids": unquote(ids)})

        assert {page.status_code, result.status_code} <= {200, 302}
        assert BATCHES in (page.headers.get("Location") or page.content.decode())


@pytest.mark.parametrize("ids", ["", ",", ",".join([UNKNOWN_ID[:-2] + f"{n:02x}" for n in range(BATCHES_AT_ONCE + 1)])])
def test_no_batch_or_too_many_batches_are_refused(admin, ids):
    response = admin.get(f"{BATCHES}cancel/?ids={ids}")

    assert messages_at(admin, response["Location"]) == [("error", f"Select 1 to {BATCHES_AT_ONCE} batches to cancel.")]


def test_a_selection_across_pages_is_refused_if_it_is_too_large(harbour, admin):
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


def test_a_database_error_is_reported(harbour, admin, monkeypatch):
    batch = harbour.batch(queued=3)

    @contextmanager
    def unavailable(**timeouts):
        raise OperationalError
        yield

    monkeypatch.setattr("calls.admin.selection.transaction_with_timeouts", unavailable)

    response = admin.get(confirmation_of(batch))

    assert messages_at(admin, response["Location"]) == [
        ("error", "Failed to update batch status. It is safe to try again.")
    ]


# The reason


@pytest.mark.parametrize("verb", ["cancel", "pause"])
@pytest.mark.parametrize(("reason", "error"), [("x" * 501, "at most 500 characters"), ("a\0b", "Null characters")])
def test_a_reason_that_cannot_be_kept_shows_the_page_again_with_the_operators_text(harbour, admin, verb, reason, error):
    batch = harbour.batch(queued=3)
    fields = hidden_fields(admin.get(confirmation_of(batch, verb=verb)))
    before = batch_snapshot(batch)

    response = admin.post(confirmation_of(batch, verb=verb), fields | {"reason": reason})

    assert response.status_code == 200
    assert error in text_of(response)
    assert f'value="{reason}"' in response.content.decode()
    assert batch_snapshot(batch) == before
    admin.post(confirmation_of(batch, verb=verb), hidden_fields(response) | {"reason": "x" * 500})
    assert batch.events.last().pgh_context["reason"] == "x" * 500


def test_a_page_without_an_error_shows_none(harbour, admin):
    page = admin.get(confirmation_of(harbour.batch(queued=3)))

    assert "errorlist" not in page.content.decode()
    assert "None" not in text_of(page)


def test_a_resume_has_no_reason(harbour, admin):
    batch = harbour.batch(BatchStatus.PAUSED, queued=1)
    address = confirmation_of(batch, verb="resume")
    page = admin.get(address)

    admin.post(address, hidden_fields(page) | {"reason": "x" * 501})

    assert 'name="reason"' not in page.content.decode()
    assert CallBatch.objects.get(pk=batch.pk).status == BatchStatus.PROCESSING
    assert "reason" not in batch.events.last().pgh_context
