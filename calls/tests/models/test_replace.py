"""CallBatch.replace(): which contacts the new batch gets, and with which values."""

import re
import uuid
from collections import defaultdict
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchAlreadyReplaced, BatchNotCancelled, BatchNotFound, NoContactsToReplace
from calls.inputs import NewContact
from calls.models import Call, CallBatch, CampaignContact
from calls.signals import batch_created
from calls.statuses import BatchStatus, ContactStatus, Outcome
from calls.tests.support.dialling import change, claim, started_batch
from calls.tests.support.factories import (
    CALLER_ID,
    STAFF_ACTOR,
    batch_snapshot,
    cancel,
    checked_counters,
    new_contacts,
)
from calls.tests.support.replacements import cancelled_batch, numbers_of, replace

pytestmark = pytest.mark.django_db

# What another service may have stored about the call of a contact that looks as if it were never called.
COLUMNS_OF_CALLED_CONTACTS = [
    {"attempts": 1},
    {"last_attempt_at": timezone.now() - timedelta(hours=1)},
    {"call_id": "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"},
    {"attempts": 1, "outcome": Outcome.NO_ANSWER},
    {"attempts": 1, "outcome": Outcome.UNKNOWN},
]


def change_contacts(batch, **columns):
    batch.contacts.update(**columns)
    return batch


# Which contacts


def test_the_replacement_has_the_contacts_that_the_cancel_skipped(harbour):
    cancelled = cancelled_batch(harbour, pending=2, queued=3, scheduled=4)

    batch = replace(cancelled)

    assert checked_counters(batch) == {"total_contacts": 9, "queued": 9}
    assert set(numbers_of(batch)) == set(cancelled.contacts.values_list("phone_number", flat=True))
    assert set(batch.contacts.values_list("status", flat=True)) == {ContactStatus.PENDING}


def test_contacts_that_the_cancel_did_not_skip_are_left_out(harbour):
    cancelled = cancelled_batch(harbour, queued=1, in_progress=2, completed=3, failed=4, skipped=5)

    batch = replace(cancelled)

    assert checked_counters(batch) == {"total_contacts": 1, "queued": 1}
    skipped = cancelled.contacts.get(outcome_notes="Batch cancelled")
    assert numbers_of(batch) == [skipped.phone_number]


def test_a_contact_marked_do_not_call_is_left_out(harbour):
    cancelled = cancelled_batch(harbour, queued=2)
    marked = cancelled.contacts.first()
    CampaignContact.objects.filter(pk=marked.pk).update(do_not_call=True)

    assert marked.phone_number not in numbers_of(replace(cancelled))


@pytest.mark.parametrize("columns", COLUMNS_OF_CALLED_CONTACTS, ids=lambda columns: "+".join(map(str, columns)))
def test_a_contact_that_was_called_is_left_out(harbour, columns):
    cancelled = cancelled_batch(harbour, queued=2)
    called = cancelled.contacts.first()
    CampaignContact.objects.filter(pk=called.pk).update(**columns)

    assert called.phone_number not in numbers_of(replace(cancelled))


def call_without_answer(batch):
    """Claim a contact whose call the provider accepts and that does not answer. It is queued again."""
    contact = claim(batch)
    Call.record_placed(contact, str(uuid.uuid4()), caller_id=CALLER_ID)
    contact.record_failed(outcome=Outcome.NO_ANSWER)
    return contact


def test_a_contact_that_was_to_be_called_again_is_left_out(harbour):
    batch = started_batch(harbour, queued=2)
    called = call_without_answer(batch)
    cancel(batch)

    assert called.phone_number not in numbers_of(replace(batch))


def test_a_contact_with_a_call_in_the_table_of_calls_is_left_out(harbour):
    cancelled = cancelled_batch(harbour, queued=2)
    called = cancelled.contacts.first()
    Call.objects.create(agency=harbour.agency, contact=called, ultravox_call_id="another-service-s-call")

    assert called.phone_number not in numbers_of(replace(cancelled))


@pytest.mark.parametrize("end", ["record_rejected", "release_claim"])
@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_contact_whose_only_calls_the_provider_refused_is_copied_without_attempts(harbour, end, cancelled_first):
    batch = started_batch(harbour, queued=1)
    contact = claim(batch)
    if cancelled_first:
        cancel(batch)
    contact.record_rejected(reason="Not placed: HTTP 422") if end == "record_rejected" else contact.release_claim()
    if not cancelled_first:
        cancel(batch)

    copy = replace(batch).contacts.get()

    assert (copy.phone_number, copy.attempts, copy.last_attempt_at) == (contact.phone_number, 0, None)
    assert (copy.outcome, copy.outcome_notes) == (None, None)


def test_a_contact_whose_call_was_accepted_before_one_was_refused_is_left_out(harbour, settings):
    settings.RETRY_PAUSE = 0
    batch = started_batch(harbour, queued=1)
    accepted = call_without_answer(batch)
    refused = claim(batch)
    refused.record_rejected(reason="Not placed: HTTP 422")
    cancel(batch)

    assert accepted.pk == refused.pk
    with pytest.raises(NoContactsToReplace):
        replace(batch)


def test_contacts_that_were_skipped_for_another_reason_are_left_out(harbour):
    cancelled = cancelled_batch(harbour, queued=2)
    other = cancelled.contacts.first()
    CampaignContact.objects.filter(pk=other.pk).update(outcome_notes="Do not call")

    assert other.phone_number not in numbers_of(replace(cancelled))


# With which values


def test_the_contacts_keep_their_order(harbour):
    cancelled = harbour.batch()
    cancelled.add_contacts(new_contacts(20)[::-1])
    cancel(cancelled)

    assert numbers_of(replace(cancelled)) == [contact.phone_number for contact in new_contacts(20)[::-1]]


def test_the_order_is_that_of_their_creation_and_not_of_their_ids(harbour):
    cancelled = cancelled_batch(harbour, queued=20)
    for age, contact in enumerate(cancelled.contacts.order_by("pk")):
        cancelled.contacts.filter(pk=contact.pk).update(created_at=timezone.now() - timedelta(hours=age))

    expected = list(cancelled.contacts.order_by("-pk").values_list("phone_number", flat=True))
    assert numbers_of(replace(cancelled)) == expected


def test_contacts_created_at_the_same_moment_keep_the_order_of_their_ids(harbour):
    cancelled = change_contacts(harbour.batch(queued=20), created_at=timezone.now())
    cancel(cancelled)

    expected = list(cancelled.contacts.order_by("pk").values_list("phone_number", flat=True))
    assert numbers_of(replace(cancelled)) == expected


def test_the_contacts_keep_all_of_their_fields(harbour):
    values = {
        "phone_number": "+12125550100",
        "first_name": "Amara",
        "last_name": "Okafor",
        "email": "amara@example.com",
        "company": "Okafor Ltd",
        "title": "Dr",
        "timezone": "Europe/London",
        "custom_data": {"policy": "A-17", "n": [1, None, {"deep": True}]},
        "max_attempts": 7,
    }
    assert set(values) == set(NewContact.model_fields)
    cancelled = harbour.batch()
    cancelled.add_contacts([NewContact(**values)])
    cancel(cancelled)

    batch = replace(cancelled)

    assert batch.contacts.values(*values).get() == values


def test_a_copy_is_a_new_contact_that_was_never_called(harbour):
    cancelled = cancelled_batch(harbour, queued=1)
    original = cancelled.contacts.get()

    copy = replace(cancelled).contacts.get()

    assert copy.pk != original.pk
    assert copy.pk.version == 7
    assert (copy.agency_id, copy.campaign_id) == (harbour.agency.pk, harbour.campaign.pk)
    assert (copy.status, copy.attempts, copy.do_not_call) == (ContactStatus.PENDING, 0, False)
    unset = ("call_id", "outcome", "outcome_notes", "duration_seconds", "last_attempt_at", "completed_at")
    assert [getattr(copy, name) for name in unset] == [None] * len(unset)
    assert abs(copy.created_at - timezone.now()) < timedelta(seconds=10)


def test_the_cancelled_batch_is_not_changed(harbour):
    cancelled = cancelled_batch(harbour, queued=3, completed=1)
    before = batch_snapshot(cancelled)

    replace(cancelled)

    assert batch_snapshot(cancelled) == before


def test_the_batch_takes_what_is_not_given_from_the_cancelled_batch(harbour):
    cancelled = change(cancelled_batch(harbour, queued=1), calls_per_minute=7, max_concurrent=3)

    batch = replace(cancelled)

    batch.refresh_from_db()
    assert (batch.status, batch.scheduled_for, batch.mode) == (BatchStatus.PENDING, None, "immediate")
    assert (batch.agency, batch.campaign, batch.agent_mapping) == (harbour.agency, harbour.campaign, harbour.agent)
    assert (batch.from_number, batch.calls_per_minute, batch.max_concurrent) == (CALLER_ID, 7, 3)
    assert batch.replaces_id == cancelled.pk
    unset = ("started_at", "paused_at", "completed_at", "error_message", "dial_after")
    assert [getattr(batch, name) for name in unset] == [None] * len(unset)


def test_the_contacts_of_the_replacement_can_be_claimed_and_cancelled(harbour):
    batch = change(replace(cancelled_batch(harbour, queued=2)), status=BatchStatus.PROCESSING)

    assert claim_next_contact(batch).attempts == 1
    assert cancel(batch).contacts_skipped == 1


def test_a_replacement_can_be_replaced_after_its_cancel(harbour):
    first = replace(cancelled_batch(harbour, queued=2))
    cancel(first)

    assert checked_counters(replace(first)) == {"total_contacts": 2, "queued": 2}


# Refusals


@pytest.mark.parametrize("status", [status for status in BatchStatus if status != BatchStatus.CANCELLED])
def test_only_a_cancelled_batch_is_replaced(harbour, status):
    batch = harbour.batch(status, completed=1)

    with pytest.raises(BatchNotCancelled) as refused:
        replace(batch)

    assert (refused.value.batch_id, refused.value.status) == (batch.pk, status)


def test_a_stale_instance_is_not_trusted(harbour):
    stale = harbour.batch(queued=1)
    cancel(CallBatch.objects.get(pk=stale.pk))

    assert replace(stale).total_contacts == 1


def test_a_batch_is_replaced_once(harbour):
    cancelled = cancelled_batch(harbour)
    batch = replace(cancelled)

    with pytest.raises(BatchAlreadyReplaced) as refused:
        replace(cancelled)

    assert refused.value.batch_id == batch.pk
    assert CallBatch.objects.count() == 2


@pytest.mark.parametrize("contacts", [{"completed": 1}, {"skipped": 1}, {}], ids=str)
def test_a_batch_without_contacts_to_copy_is_refused_and_nothing_is_stored(harbour, contacts):
    batch = harbour.batch(**contacts)
    cancel(batch)
    before = batch_snapshot(batch)

    with pytest.raises(NoContactsToReplace):
        replace(batch)

    assert batch_snapshot(batch) == before
    assert CallBatch.objects.count() == 1


def test_a_batch_that_was_deleted_is_not_found(harbour):
    with pytest.raises(BatchNotFound):
        replace(CallBatch(pk=uuid.uuid4()))


# Its cost, history, log and signal


def test_3_and_300_contacts_take_the_same_statements(harbour):
    def statements(count):
        cancelled = cancelled_batch(harbour, queued=count)
        with CaptureQueriesContext(connection) as captured:
            replace(cancelled)
        return [query["sql"].split(" ")[0] for query in captured]

    statements(1)
    few, many = statements(3), statements(300)

    assert few == many


def test_only_the_wait_for_another_replacement_and_the_copy_may_take_cancel_timeout(harbour, settings):
    settings.CANCEL_TIMEOUT = 77
    cancelled = cancelled_batch(harbour, queued=3)

    with CaptureQueriesContext(connection) as captured:
        replace(cancelled)

    # The statements by the lock timeout and the statement timeout in milliseconds.
    by_timeouts, timeouts = defaultdict(list), ()
    for sql in (query["sql"] for query in captured):
        if "lock_timeout" in sql:
            timeouts = tuple(re.findall(r"([0-9]+)ms", sql))
        else:
            by_timeouts[timeouts].append(sql)
    (lock,) = by_timeouts["77000", "77000"]
    copy, counters, *_ = by_timeouts["5000", "77000"]
    assert "pg_advisory_xact_lock" in lock
    assert "INSERT INTO campaign_contacts" in copy
    assert "UPDATE call_batches" in counters
    assert any('INSERT INTO "call_batches"' in sql for sql in by_timeouts["5000", "10000"])


def test_the_history_begins_with_the_actor_and_source(harbour):
    batch = replace(cancelled_batch(harbour))

    (event,) = batch.events.all()
    assert (event.pgh_label, event.status) == ("created", "pending")
    assert event.pgh_context == {"actor": STAFF_ACTOR.as_dict(), "via": "api"}


def test_a_replacement_is_logged_and_sends_the_signal_of_a_new_batch(
    harbour, caplog, django_capture_on_commit_callbacks
):
    caplog.set_level("INFO", "calls")
    cancelled = cancelled_batch(harbour, queued=2)
    received = []

    def receive(sender, result, **named):
        received.append((sender, result.batch.pk, result.batch.total_contacts, result.duplicates_removed))

    batch_created.connect(receive)
    with django_capture_on_commit_callbacks(execute=True):
        batch = replace(cancelled)

    assert received == [(CallBatch, batch.pk, 2, 0)]
    (line,) = caplog.messages
    assert line.startswith(f"replace batch={cancelled.pk} agency={harbour.agency.pk} source=api actor=staff:7")
    assert "outcome=pending contacts=2 ms=" in line


def test_a_refused_replacement_is_logged(harbour, caplog):
    caplog.set_level("INFO", "calls")

    with pytest.raises(BatchNotCancelled):
        replace(harbour.batch())

    assert "outcome=batch_not_cancelled" in caplog.text
