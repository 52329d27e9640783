"""The guards: which writes the database refuses to every writer, and which it allows."""

import uuid
from contextlib import contextmanager

import pytest
from django.contrib.postgres.functions import TransactionNow
from django.db import connection
from django.db.models import F

from calls.models import CallBatch, CampaignContact
from calls.statuses import DIALABLE, FINAL, FINISHED, BatchStatus, ContactStatus
from calls.tests.support.factories import cancel
from calls.tests.support.guards import STOPPED, batch_refused, contact_refused, pairs, refused_by

pytestmark = pytest.mark.django_db


LIVE = [status for status in BatchStatus if status not in FINAL]
FINAL_OR_FAILED = [*FINAL, BatchStatus.FAILED]
ACTIVE = [*DIALABLE, ContactStatus.IN_PROGRESS]


@pytest.mark.parametrize(("final", "revived"), pairs(FINAL, [s for s in BatchStatus if s not in FINAL_OR_FAILED]))
def test_a_finished_batch_cannot_be_revived(harbour, final, revived):
    batch = harbour.batch(final)

    assert batch_refused(batch, status=revived)


@pytest.mark.parametrize(("final", "again"), pairs(FINAL, FINAL_OR_FAILED))
def test_a_finished_batch_can_be_ended_again_and_keeps_its_first_end(harbour, final, again):
    batch = harbour.batch(final, in_progress=1)
    CallBatch.objects.filter(pk=batch.pk).update(in_progress=1)
    before = CallBatch.objects.values("status", "completed_at", "error_message").get()

    assert not batch_refused(
        batch,
        status=again,
        completed_at=TransactionNow(),
        error_message="done",
        in_progress=0,
        completed=F("completed") + 1,
    )

    batch.refresh_from_db()
    assert CallBatch.objects.values("status", "completed_at", "error_message").get() == before
    assert (batch.in_progress, batch.completed) == (0, 1)


@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("rewritten", [{"completed_at": TransactionNow()}, {"error_message": "rewritten"}], ids=str)
def test_a_finished_batch_keeps_its_time_and_reason(harbour, final, rewritten):
    batch = harbour.batch(final)

    assert not batch_refused(batch, **rewritten)

    batch.refresh_from_db()
    assert (batch.completed_at, batch.error_message) == (None, None)


@pytest.mark.parametrize(("live", "status"), pairs(LIVE, BatchStatus))
def test_a_live_batch_may_get_any_status(harbour, live, status):
    batch = harbour.batch(live)

    assert not batch_refused(batch, status=status)


@pytest.mark.parametrize(("batch_status", "status"), pairs(STOPPED, [*FINISHED, ContactStatus.QUEUED]))
def test_no_contact_becomes_in_progress_in_a_finished_or_paused_batch(harbour, batch_status, status):
    batch = harbour.batch(**{status: 1})
    contact = batch.contacts.get()
    CallBatch.objects.update(status=batch_status)

    assert contact_refused(contact, status=ContactStatus.IN_PROGRESS)


@pytest.mark.parametrize(("final", "status"), pairs(FINAL, DIALABLE))
def test_no_contact_becomes_dialable_in_a_finished_batch(harbour, final, status):
    batch = harbour.batch(in_progress=1, failed=1, completed=1, skipped=1)
    CallBatch.objects.update(status=final)

    assert all(contact_refused(contact, status=status) for contact in batch.contacts.all())


@pytest.mark.parametrize(("live", "status"), pairs(LIVE, ContactStatus))
def test_a_contact_of_a_live_batch_may_get_any_status_except_in_progress_while_paused(harbour, live, status):
    batch = harbour.batch(live, **dict.fromkeys(ContactStatus, 1))

    refused = [contact.status for contact in batch.contacts.all() if contact_refused(contact, status=status)]

    if live == BatchStatus.PAUSED and status == ContactStatus.IN_PROGRESS:
        assert sorted(refused) == sorted(set(ContactStatus) - {ContactStatus.IN_PROGRESS})
    else:
        assert refused == []


@pytest.mark.parametrize(("final", "status"), pairs(FINAL, FINISHED))
def test_a_call_may_end_in_a_finished_batch(harbour, final, status):
    batch = harbour.batch(in_progress=1)
    CallBatch.objects.update(status=final)

    assert not contact_refused(batch.contacts.get(), status=status, outcome="whatever")


@pytest.mark.parametrize(("final", "status"), pairs(FINAL, ACTIVE))
def test_no_dialable_contact_or_call_in_progress_is_moved_to_a_finished_batch(harbour, final, status):
    elsewhere, batch = harbour.batch(**{status: 1}), harbour.batch(final)

    assert contact_refused(elsewhere.contacts.get(), batch=batch)


@pytest.mark.parametrize(("final", "status"), pairs(FINAL, FINISHED))
def test_a_finished_contact_may_be_moved_to_a_finished_batch(harbour, final, status):
    elsewhere, batch = harbour.batch(**{status: 1}), harbour.batch(final)

    assert not contact_refused(elsewhere.contacts.get(), batch=batch)


@pytest.mark.parametrize("status", DIALABLE)
def test_a_contact_cannot_be_moved_to_a_paused_batch_and_set_to_in_progress_in_one_write(harbour, status):
    elsewhere, batch = harbour.batch(**{status: 1}), harbour.batch(BatchStatus.PAUSED)
    contact = elsewhere.contacts.get()

    assert contact_refused(contact, batch=batch, status=ContactStatus.IN_PROGRESS)
    assert not contact_refused(contact, batch=batch)


def test_a_contact_in_progress_may_be_moved_to_a_paused_batch(harbour):
    elsewhere, batch = harbour.batch(in_progress=1), harbour.batch(BatchStatus.PAUSED)

    assert not contact_refused(elsewhere.contacts.get(), batch=batch)


@pytest.mark.not_adopted
def test_no_contact_is_moved_to_a_batch_that_does_not_exist(harbour):
    elsewhere = harbour.batch(queued=1)

    assert contact_refused(elsewhere.contacts.get(), batch=uuid.uuid4())


@pytest.mark.parametrize("status", ACTIVE)
def test_a_contact_may_leave_its_batch(harbour, status):
    batch = harbour.batch(**{status: 1})
    contact = batch.contacts.get()

    assert not contact_refused(contact, batch=None)


def test_a_contact_without_a_batch_is_not_guarded(harbour):
    contact = harbour.contact(None)
    contact.save()

    assert not contact_refused(contact, status=ContactStatus.IN_PROGRESS)
    assert not contact_refused(contact, status=ContactStatus.QUEUED)


@pytest.mark.parametrize(("final", "status"), pairs(FINAL, ACTIVE))
def test_no_dialable_contact_or_call_in_progress_is_added_to_a_finished_batch(harbour, final, status):
    live, batch = harbour.batch(), harbour.batch(final)
    contacts = [harbour.contact(live), harbour.contact(batch, status=status), harbour.contact(None)]

    assert refused_by("contact_batch_live", lambda: CampaignContact.objects.bulk_create(contacts))
    assert not CampaignContact.objects.exists()


def test_no_contact_in_progress_is_added_to_a_paused_batch(harbour):
    batch = harbour.batch(BatchStatus.PAUSED)

    assert refused_by("contact_batch_live", harbour.contact(batch, status=ContactStatus.IN_PROGRESS).save)
    assert not refused_by("contact_batch_live", harbour.contact(batch).save)


@pytest.mark.not_adopted
def test_no_contact_is_added_to_a_batch_that_does_not_exist(harbour):
    contact = harbour.contact(CallBatch(pk=uuid.uuid4()))

    assert refused_by("contact_batch_live", contact.save)


@pytest.mark.parametrize(("final", "status"), pairs(FINAL, FINISHED))
def test_a_finished_contact_may_be_added_to_a_finished_batch(harbour, final, status):
    batch = harbour.batch(final)

    assert not refused_by("contact_batch_live", harbour.contact(batch, status=status).save)


def test_a_batch_and_its_contacts_can_be_inserted_by_one_statement(harbour):
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH batch AS (
                INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number)
                VALUES (%(agency)s, %(campaign)s, %(agent)s, '+12125550199') RETURNING id
            )
            INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number)
            SELECT %(agency)s, %(campaign)s, id, '+12125550100' FROM batch
            """,
            {"agency": harbour.agency.pk, "campaign": harbour.campaign.pk, "agent": harbour.agent.pk},
        )

    assert CallBatch.objects.get().contacts.get().status == ContactStatus.PENDING


@contextmanager
def calls_of(guard):
    """Yield a list. At the end of the context it contains how often the guard's function was called."""
    sql = "SELECT coalesce(sum(calls), 0) FROM pg_stat_xact_user_functions WHERE funcname LIKE %s"
    number = []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL track_functions = 'pl'")
        yield number
        cursor.execute(sql, [f"pgtrigger_{guard}%"])
        number.append(cursor.fetchone()[0])


def test_the_batch_of_ten_thousand_new_contacts_is_looked_up_once(harbour):
    batch = harbour.batch()

    with calls_of("contact_batch_live_insert") as number:
        CampaignContact.objects.bulk_create((harbour.contact(batch) for _ in range(10_000)), batch_size=10_000)

    assert number == [1]


def test_starting_a_batch_calls_no_guard(harbour):
    batch = harbour.batch(pending=30)

    with calls_of("contact_batch_live") as number:
        batch.contacts.update(status=ContactStatus.QUEUED)

    assert number == [0]


def test_a_cancel_calls_no_guard(harbour):
    batch = harbour.batch(queued=30)

    with calls_of("contact_batch_live") as contact, calls_of("batch_final") as final:
        cancel(batch)

    assert (contact, final) == ([0], [0])
