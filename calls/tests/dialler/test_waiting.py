"""waiting_for(): why no call of a batch starts, in words."""

from datetime import datetime, timedelta, timezone

import pytest
from django.db import connection
from django.db.models import F
from django.utils.timezone import now

from calls.dialler.waiting import DiallingState, Waiting, WaitReason, due_batches, waiting_for, with_dialling_state
from calls.models import Agency, CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.dialling import add_call, change, claim, started_batch, waiting_of
from calls.tests.support.factories import PHONE

pytestmark = pytest.mark.django_db

# In India it is 2099-01-01 02:30.
AHEAD = datetime(2099, 1, 1, 2, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
AHEAD_SHOWN = "2098-12-31 21:00 UTC"


def change_agency(tenant, **columns):
    Agency.objects.filter(pk=tenant.agency.pk).update(**columns)


def shown(moment):
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# Batches that wait for nothing


def test_a_batch_with_a_contact_to_call_waits_for_nothing(harbour):
    assert waiting_of(started_batch(harbour)) is None


def test_a_batch_that_is_about_to_start_waits_for_nothing(harbour):
    assert waiting_of(harbour.batch(BatchStatus.PENDING, pending=1)) is None


def test_a_batch_that_is_about_to_start_waits_for_nothing_even_if_its_number_is_being_called(harbour):
    claimed = claim(started_batch(harbour))
    batch = harbour.batch(BatchStatus.PENDING, pending=1)
    batch.contacts.update(phone_number=claimed.phone_number)

    assert waiting_of(batch) is None


def test_a_batch_that_is_about_to_be_completed_waits_for_nothing(harbour):
    assert waiting_of(started_batch(harbour, queued=0)) is None


@pytest.mark.parametrize("status", [BatchStatus.COMPLETED, BatchStatus.CANCELLED, BatchStatus.FAILED])
def test_a_batch_that_has_ended_or_failed_waits_for_nothing(harbour, status):
    batch = started_batch(harbour, queued=0, status=status, scheduled_for=AHEAD, dial_after=AHEAD)
    change_agency(harbour, max_concurrent_calls=0, dial_after=AHEAD)

    assert waiting_of(batch) is None


# The reasons


@pytest.mark.parametrize(
    ("columns", "waiting"),
    [
        ({"status": BatchStatus.PAUSED}, Waiting(WaitReason.PAUSED, "the batch is paused")),
        ({"scheduled_for": AHEAD}, Waiting(WaitReason.SCHEDULED, f"the batch starts at {AHEAD_SHOWN}")),
        ({"dial_after": AHEAD}, Waiting(WaitReason.OTHER_DIALLER, "another dialler keeps the batch")),
        (
            {"max_concurrent": 0},
            Waiting(WaitReason.CONCURRENCY, "0 calls in progress, the most this batch may have"),
        ),
        (
            {"calls_per_minute": 0},
            Waiting(WaitReason.RATE, "0 calls started in the last minute, the most this batch may start"),
        ),
    ],
    ids=lambda value: value.reason.value if isinstance(value, Waiting) else "",
)
def test_a_batch_waits_for_what_its_own_columns_say(harbour, columns, waiting):
    assert waiting_of(started_batch(harbour, **columns)) == waiting


def test_the_text_is_what_people_read(harbour):
    assert str(waiting_of(started_batch(harbour, status=BatchStatus.PAUSED))) == "the batch is paused"


def test_a_batch_waits_until_the_provider_takes_calls_of_the_agency_again(harbour):
    batch = started_batch(harbour)
    change_agency(harbour, dial_after=AHEAD)

    assert waiting_of(batch) == Waiting(WaitReason.PROVIDER, f"the provider asked to wait until {AHEAD_SHOWN}")


@pytest.mark.parametrize(("of_batch", "of_agency", "later"), [(1, 2, 2), (2, 1, 2), (1, None, 1)])
def test_of_two_waits_the_longer_one_is_shown(harbour, of_batch, of_agency, later):
    hours = {number: now() + timedelta(hours=number) for number in (1, 2)} | {None: None}
    batch = started_batch(harbour, dial_after=hours[of_batch])
    change_agency(harbour, dial_after=hours[of_agency])

    text = f"the provider asked to wait until {shown(hours[later])}"
    assert waiting_of(batch) == Waiting(WaitReason.PROVIDER, text)


def test_a_wait_that_is_over_is_not_shown(harbour):
    batch = started_batch(harbour, dial_after=now() - timedelta(seconds=1))
    change_agency(harbour, dial_after=now() - timedelta(seconds=1))

    assert waiting_of(batch) is None


def test_a_batch_waits_for_a_key_of_its_agency(harbour, encrypted):
    waiting = waiting_of(started_batch(harbour))

    assert waiting.reason is WaitReason.CREDENTIALS
    assert waiting.text.startswith("The agency has no Ultravox key.")


def test_a_batch_waits_for_the_end_of_one_of_its_calls(harbour):
    batch = started_batch(harbour, queued=5, max_concurrent=3)
    contacts = [claim(batch) for _ in range(3)]

    text = "3 calls in progress, the most this batch may have"
    assert waiting_of(batch) == Waiting(WaitReason.CONCURRENCY, text)
    contacts[0].record_answered(outcome="answered")
    assert waiting_of(batch) is None


def test_a_batch_waits_for_the_end_of_a_call_in_another_batch_of_an_agency_at_its_limit(harbour):
    first, second = started_batch(harbour), started_batch(harbour)
    contact = claim(first)
    change_agency(harbour, max_concurrent_calls=1)

    text = "1 call in progress in all batches, the most the agency may have"
    assert waiting_of(second) == Waiting(WaitReason.AGENCY, text)
    contact.record_answered(outcome="answered")
    assert waiting_of(second) is None


def test_a_batch_waits_for_the_minute_in_which_its_calls_started(harbour):
    batch = started_batch(harbour, queued=5, calls_per_minute=2)
    for _ in range(2):
        claim(batch).record_answered(outcome="answered")

    text = "2 calls started in the last minute, the most this batch may start"
    assert waiting_of(batch) == Waiting(WaitReason.RATE, text)
    batch.contacts.update(last_attempt_at=F("last_attempt_at") - timedelta(minutes=1))
    assert waiting_of(batch) is None


def test_a_batch_waits_for_the_end_of_a_call_to_the_same_number_in_another_batch(harbour):
    first, second = started_batch(harbour), started_batch(harbour)
    CampaignContact.objects.update(phone_number=PHONE)
    contact = claim(first)

    text = "the next numbers are being called in another batch of the agency"
    assert waiting_of(second) == Waiting(WaitReason.SAME_NUMBER, text)
    contact.record_answered(outcome="answered")
    assert waiting_of(second) is None


def test_a_batch_waits_for_the_contact_that_may_be_called_again_next(harbour, settings):
    settings.RETRY_PAUSE = 3600
    batch = started_batch(harbour, queued=2)
    first, second = batch.contacts.all()
    attempts = now() - timedelta(minutes=20), now() - timedelta(minutes=40)
    for contact, attempt in zip((first, second), attempts, strict=True):
        contact.last_attempt_at = attempt
        contact.save()

    due = shown(attempts[1] + timedelta(hours=1))
    assert waiting_of(batch) == Waiting(WaitReason.RETRY, f"no contact is due before {due}")


@pytest.mark.parametrize(
    ("calls", "text"), [(1, "the last call in progress"), (2, "the last 2 calls in progress")], ids=["one", "two"]
)
def test_a_batch_with_no_contact_left_waits_for_its_last_calls(harbour, calls, text):
    batch = started_batch(harbour, queued=calls)
    for _ in range(calls):
        claim(batch)

    assert waiting_of(batch) == Waiting(WaitReason.LAST_CALLS, text)


def test_a_batch_with_a_contact_that_its_start_left_pending_waits_for_nothing(harbour):
    batch = started_batch(harbour)
    batch.contacts.update(status=ContactStatus.PENDING)

    assert waiting_of(batch) is None


def test_the_limits_come_before_what_the_contacts_wait_for(harbour, settings):
    settings.RETRY_PAUSE = 3600
    batch = started_batch(harbour, max_concurrent=0)
    batch.contacts.update(last_attempt_at=now())

    assert waiting_of(batch).reason is WaitReason.CONCURRENCY


# Values that other services write


def allow_null(column):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"ALTER TABLE call_batches ALTER {column} DROP NOT NULL")


def test_a_batch_whose_max_concurrent_is_null_has_at_most_10_calls_in_progress(harbour):
    batch = started_batch(harbour, queued=11)
    allow_null("max_concurrent")
    change(batch, max_concurrent=None)

    for _ in range(9):
        claim(batch)
    assert waiting_of(batch) is None
    claim(batch)
    assert waiting_of(batch).text == "10 calls in progress, the most this batch may have"


def test_a_batch_whose_calls_per_minute_is_null_starts_at_most_30_calls_in_a_minute(harbour):
    batch = started_batch(harbour, queued=1)
    allow_null("calls_per_minute")
    change(batch, calls_per_minute=None)

    for _ in range(29):
        add_call(batch, ago=timedelta(seconds=1))
    assert waiting_of(batch) is None
    add_call(batch, ago=timedelta(seconds=1))
    assert waiting_of(batch).text == "30 calls started in the last minute, the most this batch may start"


def test_a_batch_with_an_infinite_dial_after_is_kept_by_another_dialler(harbour):
    batch = started_batch(harbour)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET dial_after = 'infinity'")

    assert waiting_of(batch) == Waiting(WaitReason.OTHER_DIALLER, "another dialler keeps the batch")


@pytest.mark.parametrize("table", ["call_batches", "agencies"])
def test_a_dial_after_of_minus_infinity_delays_nothing(harbour, table):
    batch = started_batch(harbour)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET dial_after = '-infinity'")

    assert waiting_of(batch) is None


def test_a_batch_of_an_agency_with_an_infinite_dial_after_is_deferred(harbour):
    batch = started_batch(harbour)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE agencies SET dial_after = 'infinity'")

    assert waiting_of(batch).reason is WaitReason.PROVIDER


# What is read


def test_the_due_batches_have_the_state_that_waiting_for_needs_without_another_query(
    harbour, django_assert_num_queries
):
    for _ in range(3):
        claim(started_batch(harbour, queued=2, max_concurrent=1))
    # The agency's key is cached from now on.
    waiting_for(due_batches()[0])

    with django_assert_num_queries(1):
        reasons = [waiting_for(batch).reason for batch in due_batches()]

    assert reasons == [WaitReason.CONCURRENCY] * 3


def test_nothing_is_counted_for_a_batch_that_is_not_dialled(harbour):
    batch = started_batch(harbour, queued=2)
    claim(batch)
    change(batch, status=BatchStatus.PAUSED)

    state = DiallingState.from_batch(with_dialling_state(CallBatch.objects.all()).get(pk=batch.pk))

    assert (state.in_progress, state.started, state.next_status) == (None, None, None)
