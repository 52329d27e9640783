"""
The guards on claims: in a batch that was stopped, no contact is claimed again, with any status. What a call in progress
writes goes through.
"""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.postgres.functions import TransactionNow
from django.db import connection
from django.db.models import F

from calls.models import CallBatch
from calls.statuses import FINAL, FINISHED, BatchStatus, ContactStatus
from calls.tests.support.guards import STOPPED, batch_refused, contact_refused, pairs, refused_by

pytestmark = pytest.mark.django_db

LIVE = [BatchStatus.PENDING, BatchStatus.SCHEDULED, BatchStatus.PROCESSING, BatchStatus.FAILED]

EARLIER = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
CLAIMS_AGAIN = {
    "counts the attempt": {"attempts": F("attempts") + 1},
    "writes the time": {"last_attempt_at": TransactionNow()},
    "writes both": {"attempts": F("attempts") + 1, "last_attempt_at": TransactionNow()},
    # Two services that read the same row write the same number, and their clocks differ.
    "writes an earlier time": {"last_attempt_at": EARLIER - timedelta(seconds=1)},
    "clears the earlier call": {"attempts": F("attempts") + 1, "call_id": None, "outcome": None},
    "names a new call": {"attempts": F("attempts") + 1, "call_id": uuid.UUID(int=2)},
}


def batch_with_call_in_progress(tenant, status):
    """Return a batch that got this status while a call was in progress, and that call's contact."""
    batch = tenant.batch(in_progress=1)
    batch.contacts.update(attempts=1, last_attempt_at=EARLIER, call_id=uuid.uuid4())
    CallBatch.objects.filter(pk=batch.pk).update(status=status)
    return batch, batch.contacts.get()


@pytest.mark.parametrize(("stopped", "claim"), pairs(STOPPED, CLAIMS_AGAIN))
def test_no_contact_in_progress_is_claimed_again_in_a_finished_or_paused_batch(harbour, stopped, claim):
    _, contact = batch_with_call_in_progress(harbour, stopped)

    assert contact_refused(contact, status=ContactStatus.IN_PROGRESS, **CLAIMS_AGAIN[claim])


@pytest.mark.parametrize("stopped", STOPPED)
def test_no_contact_in_progress_is_claimed_for_the_first_counted_time_in_a_finished_or_paused_batch(harbour, stopped):
    batch = harbour.batch(in_progress=1)
    batch.contacts.update(attempts=0, last_attempt_at=None)
    CallBatch.objects.update(status=stopped)

    assert contact_refused(batch.contacts.get(), attempts=1)
    assert contact_refused(batch.contacts.get(), last_attempt_at=TransactionNow())


@pytest.mark.parametrize(("live", "claim"), pairs(LIVE, CLAIMS_AGAIN))
def test_a_contact_in_progress_may_be_claimed_again_in_a_live_batch(harbour, live, claim):
    _, contact = batch_with_call_in_progress(harbour, live)

    assert not contact_refused(contact, status=ContactStatus.IN_PROGRESS, **CLAIMS_AGAIN[claim])


def test_a_contact_in_progress_cannot_be_moved_to_a_paused_batch_and_claimed_again_in_one_write(harbour):
    _, contact = batch_with_call_in_progress(harbour, BatchStatus.PROCESSING)
    paused = harbour.batch(BatchStatus.PAUSED)

    assert contact_refused(contact, batch=paused, **CLAIMS_AGAIN["counts the attempt"])


# What pipelines of other services write about a call in progress, in their order. The attempt and its time are written
# with the claim, or with the end.
RECORDS_CALL = {"call_id": uuid.UUID(int=1)}
RECORDS_RESULT = {"outcome": "answered", "duration_seconds": 30, "outcome_notes": "They talked."}
ENDS = {"status": ContactStatus.COMPLETED, "completed_at": TransactionNow()}
COUNTS_ATTEMPT = {"attempts": F("attempts") + 1, "last_attempt_at": TransactionNow()}
COUNTS_END = {"in_progress": F("in_progress") - 1, "completed": F("completed") + 1}
PIPELINES = {
    "call, result, end, counters": [RECORDS_CALL, RECORDS_RESULT, ENDS, COUNTS_END],
    "call and status, result, end, counters": [
        RECORDS_CALL | {"status": ContactStatus.IN_PROGRESS},
        RECORDS_RESULT,
        ENDS,
        COUNTS_END,
    ],
    "call and result, counters, end": [RECORDS_CALL | RECORDS_RESULT, COUNTS_END, ENDS],
    "result, call, counters, end": [RECORDS_RESULT, RECORDS_CALL, COUNTS_END, ENDS],
    "counters, end and result, call": [COUNTS_END, ENDS | RECORDS_RESULT, RECORDS_CALL],
    "end, counters, result, call": [ENDS, COUNTS_END, RECORDS_RESULT, RECORDS_CALL],
    "end with the attempt": [RECORDS_CALL, ENDS | COUNTS_ATTEMPT | RECORDS_RESULT, COUNTS_END],
    "end, then the attempt": [ENDS, COUNTS_ATTEMPT, RECORDS_RESULT, COUNTS_END],
    "the claim is undone": [{"attempts": F("attempts") - 1, "last_attempt_at": None}, {"status": "skipped"}],
}


@pytest.mark.parametrize(("stopped", "pipeline"), pairs(STOPPED, PIPELINES))
def test_what_a_call_in_progress_writes_goes_through_in_any_order(harbour, stopped, pipeline):
    batch, contact = batch_with_call_in_progress(harbour, stopped)

    for changes in PIPELINES[pipeline]:
        if changes is COUNTS_END:
            assert not batch_refused(batch, **changes)
        else:
            assert not contact_refused(contact, **changes)


@pytest.fixture
def dialing(db):
    """The status with which another service claims a contact. The table allows it, and contacts without a status."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE campaign_contacts DROP CONSTRAINT IF EXISTS contact_status_known")
        cursor.execute("ALTER TABLE campaign_contacts ALTER status DROP NOT NULL")
    return "dialing"


@pytest.mark.parametrize(("stopped", "status"), pairs(STOPPED, [*FINISHED, ContactStatus.QUEUED, None]))
def test_no_contact_gets_another_services_status_for_calling_in_a_finished_or_paused_batch(
    harbour, dialing, stopped, status
):
    batch = harbour.batch(queued=1)
    batch.contacts.update(status=status)
    CallBatch.objects.update(status=stopped)

    assert contact_refused(batch.contacts.get(), status=dialing)


@pytest.mark.parametrize("stopped", STOPPED)
def test_no_contact_with_another_services_status_for_calling_is_claimed_again_or_added(harbour, dialing, stopped):
    batch = harbour.batch(queued=1)
    batch.contacts.update(status=dialing)
    CallBatch.objects.update(status=stopped)

    assert contact_refused(batch.contacts.get(), status="in_progress", attempts=1)
    assert refused_by("contact_batch_live", harbour.contact(batch, status=dialing).save)


@pytest.mark.parametrize("stopped", STOPPED)
def test_a_call_in_progress_may_get_another_services_status_and_end(harbour, dialing, stopped):
    batch = harbour.batch(in_progress=1)
    CallBatch.objects.update(status=stopped)

    assert not contact_refused(batch.contacts.get(), status=dialing)
    assert not contact_refused(batch.contacts.get(), status="voicemail", **RECORDS_CALL)
    assert not contact_refused(batch.contacts.get(), **ENDS)


@pytest.mark.parametrize("stopped", STOPPED)
def test_no_contact_with_another_services_status_becomes_in_progress(harbour, dialing, stopped):
    batch = harbour.batch(queued=1)
    batch.contacts.update(status="voicemail")
    CallBatch.objects.update(status=stopped)

    assert contact_refused(batch.contacts.get(), status=ContactStatus.IN_PROGRESS)


@pytest.mark.parametrize("final", FINAL)
def test_no_contact_without_a_status_becomes_dialable_in_a_finished_batch(harbour, dialing, final):
    batch = harbour.batch(queued=1)
    batch.contacts.update(status=None)
    CallBatch.objects.update(status=final)

    assert contact_refused(batch.contacts.get(), status=ContactStatus.QUEUED)
