"""
The guards while an agency is on hold: no contact of its batches is claimed, whatever status the batch has. All other
writes go through.
"""

import uuid
from datetime import UTC, datetime

import pytest
from django.contrib.postgres.functions import TransactionNow
from django.db import connection
from django.db.models import F

from calls.models import Agency, CallBatch, CampaignContact
from calls.statuses import DIALABLE, FINAL, FINISHED, BatchStatus, ContactStatus
from calls.tests.support.guards import contact_refused, pairs, refusal_of, refused_by

pytestmark = pytest.mark.django_db

LIVE = [status for status in BatchStatus if status not in FINAL]

EARLIER = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
COUNTS_ATTEMPT = {"attempts": F("attempts") + 1, "last_attempt_at": TransactionNow()}


def hold(tenant):
    """Hold the agency as another service could, in the test's own transaction."""
    Agency.objects.filter(pk=tenant.agency.pk).update(held_at=TransactionNow())


def release(tenant):
    Agency.objects.filter(pk=tenant.agency.pk).update(held_at=None)


def claim_refused(contact):
    return contact_refused(contact, status=ContactStatus.IN_PROGRESS, **COUNTS_ATTEMPT)


def held_contact(tenant, status, batch_status=BatchStatus.PROCESSING):
    """Return the only contact of a batch, whose agency was put on hold afterwards."""
    batch = tenant.batch(**{status: 1})
    if status == ContactStatus.IN_PROGRESS:
        batch.contacts.update(attempts=1, last_attempt_at=EARLIER, call_id=uuid.UUID(int=1))
    CallBatch.objects.filter(pk=batch.pk).update(status=batch_status)
    hold(tenant)
    return batch.contacts.get()


# Claims


@pytest.mark.parametrize(("batch_status", "status"), pairs(LIVE, [*DIALABLE, *FINISHED]))
def test_no_contact_of_an_agency_on_hold_becomes_in_progress(harbour, batch_status, status):
    contact = held_contact(harbour, status, batch_status)

    assert contact_refused(contact, status=ContactStatus.IN_PROGRESS)


@pytest.mark.parametrize("batch_status", LIVE)
@pytest.mark.parametrize("changed", [["attempts"], ["last_attempt_at"], ["attempts", "last_attempt_at"]], ids=str)
def test_no_contact_in_progress_of_an_agency_on_hold_is_claimed_again(harbour, batch_status, changed):
    contact = held_contact(harbour, ContactStatus.IN_PROGRESS, batch_status)

    assert contact_refused(contact, **{name: COUNTS_ATTEMPT[name] for name in changed})


@pytest.fixture
def dialing(db):
    """The status with which another service claims a contact. The table allows it."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE campaign_contacts DROP CONSTRAINT IF EXISTS contact_status_known")
    return "dialing"


@pytest.mark.parametrize("status", [*DIALABLE, *FINISHED])
def test_no_contact_of_an_agency_on_hold_gets_another_services_status_for_calling(harbour, dialing, status):
    contact = held_contact(harbour, status)

    assert contact_refused(contact, status=dialing)


@pytest.mark.parametrize("batch_status", LIVE)
def test_no_contact_in_progress_is_added_to_a_batch_of_an_agency_on_hold(harbour, batch_status):
    batch = harbour.batch(batch_status)
    hold(harbour)

    assert refused_by("contact_batch_live", harbour.contact(batch, status=ContactStatus.IN_PROGRESS).save)


def test_one_contact_in_progress_refuses_the_insert_of_all(harbour):
    batch = harbour.batch()
    hold(harbour)
    contacts = [harbour.contact(batch), harbour.contact(batch, status=ContactStatus.IN_PROGRESS)]

    assert refused_by("contact_batch_live", lambda: CampaignContact.objects.bulk_create(contacts))
    assert not batch.contacts.exists()


@pytest.mark.parametrize("status", [*DIALABLE, *FINISHED])
def test_a_contact_cannot_be_moved_to_a_batch_of_an_agency_on_hold_and_claimed_in_one_write(harbour, bluebell, status):
    contact = bluebell.batch(**{status: 1}).contacts.get()
    batch = harbour.batch()
    hold(harbour)

    assert contact_refused(contact, batch=batch, status=ContactStatus.IN_PROGRESS)


def test_the_agency_of_the_batch_counts_and_not_that_of_the_contact(harbour, bluebell):
    held, free = harbour.batch(), bluebell.batch()
    of_bluebell, of_harbour = bluebell.contact(held), harbour.contact(free)
    CampaignContact.objects.bulk_create([of_bluebell, of_harbour])
    hold(harbour)

    assert claim_refused(of_bluebell)
    assert not claim_refused(of_harbour)


def test_a_claim_of_several_contacts_is_refused_if_one_is_of_an_agency_on_hold(harbour, bluebell):
    held, free = harbour.batch(queued=1), bluebell.batch(queued=1)
    hold(harbour)

    def claim_all():
        CampaignContact.objects.filter(batch__in=[held, free]).update(status=ContactStatus.IN_PROGRESS)

    assert refused_by("contact_batch_live", claim_all)
    assert not CampaignContact.objects.filter(status=ContactStatus.IN_PROGRESS).exists()


# All other writes


@pytest.mark.parametrize("batch_status", LIVE)
@pytest.mark.parametrize("end", FINISHED)
def test_a_call_writes_its_result_and_ends(harbour, batch_status, end):
    contact = held_contact(harbour, ContactStatus.IN_PROGRESS, batch_status)

    assert not contact_refused(contact, call_id=uuid.UUID(int=2))
    assert not contact_refused(contact, status=ContactStatus.IN_PROGRESS, outcome="answered", duration_seconds=30)
    assert not contact_refused(contact, status=end, completed_at=TransactionNow())
    assert not contact_refused(contact, **COUNTS_ATTEMPT)


def test_a_call_may_count_its_attempt_when_it_ends(harbour):
    contact = held_contact(harbour, ContactStatus.IN_PROGRESS)

    assert not contact_refused(contact, status=ContactStatus.COMPLETED, **COUNTS_ATTEMPT)


def test_a_call_in_progress_may_get_another_services_status(harbour, dialing):
    contact = held_contact(harbour, ContactStatus.IN_PROGRESS)

    assert not contact_refused(contact, status=dialing)


def test_a_claim_may_be_undone(harbour):
    contact = held_contact(harbour, ContactStatus.IN_PROGRESS)

    assert not contact_refused(contact, attempts=0, last_attempt_at=None)
    assert not contact_refused(contact, status=ContactStatus.QUEUED)


@pytest.mark.parametrize(("before", "dialable"), pairs(ContactStatus, DIALABLE))
def test_a_contact_may_be_queued_again(harbour, before, dialable):
    contact = held_contact(harbour, before)

    assert not contact_refused(contact, status=dialable)


@pytest.mark.parametrize(("batch_status", "status"), pairs(LIVE, [*DIALABLE, *FINISHED]))
def test_contacts_that_are_not_in_progress_may_be_added(harbour, batch_status, status):
    batch = harbour.batch(batch_status)
    hold(harbour)

    assert not refused_by("contact_batch_live", harbour.contact(batch, status=status).save)


@pytest.mark.parametrize("status", ContactStatus)
def test_a_contact_may_be_moved_to_a_batch_of_an_agency_on_hold(harbour, status):
    contact, batch = harbour.batch(**{status: 1}).contacts.get(), harbour.batch()
    hold(harbour)

    assert not contact_refused(contact, batch=batch)


def test_a_contact_without_a_batch_is_not_guarded(harbour):
    contact = harbour.contact(None)
    contact.save()
    hold(harbour)

    assert not claim_refused(contact)


# Which agencies


def test_after_a_release_contacts_are_claimed_again(harbour):
    contact = held_contact(harbour, ContactStatus.QUEUED)
    assert claim_refused(contact)

    release(harbour)

    assert not claim_refused(contact)
    assert not claim_refused(contact)


def test_contacts_of_another_agency_are_claimed(harbour, bluebell):
    contact = bluebell.batch(queued=1).contacts.get()
    hold(harbour)

    assert not claim_refused(contact)
    assert not refused_by("contact_batch_live", bluebell.contact(contact.batch, status=ContactStatus.IN_PROGRESS).save)


def test_an_account_that_the_provider_asked_to_wait_is_not_on_hold(harbour):
    """``dial_after`` is for this app alone."""
    contact = harbour.batch(queued=1).contacts.get()
    Agency.objects.update(dial_after=TransactionNow())

    assert not claim_refused(contact)


# The message


def claim_message(contact):
    claimed = CampaignContact.objects.filter(pk=contact.pk)
    return refusal_of("contact_batch_live", lambda: claimed.update(status=ContactStatus.IN_PROGRESS))


def test_the_message_says_that_the_agency_is_on_hold(harbour):
    contact = held_contact(harbour, ContactStatus.QUEUED)

    assert claim_message(contact) == (
        f"contact {contact.pk} cannot become in_progress in batch {contact.batch_id}, which is of an agency on hold"
    )


def test_the_message_of_an_insert_says_that_the_agency_is_on_hold(harbour):
    batch = harbour.batch()
    hold(harbour)

    assert refusal_of("contact_batch_live", harbour.contact(batch, status=ContactStatus.IN_PROGRESS).save) == (
        f"a contact cannot be added as in_progress to batch {batch.pk}, which is of an agency on hold"
    )


@pytest.mark.parametrize("final", FINAL)
def test_the_message_of_a_batch_that_has_ended_names_its_status(harbour, final):
    batch = harbour.batch(queued=1)
    CallBatch.objects.filter(pk=batch.pk).update(status=final)
    hold(harbour)

    assert claim_message(batch.contacts.get()).endswith(f"which is {final}")
    assert refusal_of("contact_batch_live", harbour.contact(batch).save).endswith(f"which is {final}")


def test_the_message_of_a_paused_batch_names_its_status_unless_its_agency_is_on_hold(harbour):
    contact = harbour.batch(BatchStatus.PAUSED, queued=1).contacts.get()

    assert claim_message(contact).endswith("which is paused")
    hold(harbour)
    assert claim_message(contact).endswith("which is of an agency on hold")
