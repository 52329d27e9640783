"""Other services that write the same tables by SQL: nothing changes for them where a batch is live."""

import uuid

import psycopg
import pytest
from django.db import connection

from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import cancel, plain_connection

pytestmark = pytest.mark.django_db(transaction=True)

BUSINESS_TABLES = (
    "agencies, users, campaigns, agent_mappings, agency_phone_numbers, call_batches, campaign_contacts, calls"
)

# What an old edge function does, each in a batch that is ``batch`` and to a contact that is ``contact``; a contact
# enters from ``elsewhere``.
WRITES = {
    "claims a contact": "UPDATE public.campaign_contacts SET status = 'in_progress' WHERE id = %(queued)s",
    "retries a contact": "UPDATE public.campaign_contacts SET status = 'queued' WHERE id = %(failed)s",
    "moves a contact in": "UPDATE public.campaign_contacts SET batch_id = %(batch)s WHERE id = %(elsewhere)s",
    "adds a contact": """
        INSERT INTO public.campaign_contacts (agency_id, campaign_id, batch_id, phone_number)
        VALUES (%(agency)s, %(campaign)s, %(batch)s, '+12125550100')
    """,
}
RESUMES = "UPDATE public.call_batches SET status = 'processing' WHERE id = %(batch)s"
COUNTS = "UPDATE public.call_batches SET completed = completed + 1 WHERE id = %(batch)s"


@pytest.fixture(params=["the owner", "a role past row level security", "a role that sees contacts only"])
def writer(request, db):
    """
    A plain connection with an empty search_path, as each kind of other service has it.

    Row level security is on for every table and none has a policy: the owner is not bound by it, Supabase's own
    ``service_role`` may bypass it, and a role that may not is given a policy on the contacts alone, so that it
    sees no batch. None but the owner has rights on a table that is ours alone.
    """
    name = f"edge_{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        if request.param == "the owner":
            options, cleanup = "-c search_path=", ""
        else:
            bypass = "BYPASSRLS" if "past" in request.param else "NOBYPASSRLS"
            cursor.execute(f"CREATE ROLE {name} {bypass}")
            cursor.execute(f"GRANT SELECT, INSERT, UPDATE ON {BUSINESS_TABLES} TO {name}")
            options, cleanup = f"-c search_path= -c role={name}", f"DROP OWNED BY {name}; DROP ROLE {name}"
            if bypass == "NOBYPASSRLS":
                cursor.execute(f"CREATE POLICY {name} ON campaign_contacts TO {name} USING (true) WITH CHECK (true)")
        with plain_connection(options=options) as plain:
            plain.sees_batches = "contacts only" not in request.param
            yield plain
        cursor.execute(cleanup or "SELECT 1")


@pytest.fixture
def rows(harbour):
    batch = harbour.batch(queued=2, failed=1)
    return {
        "batch": batch.pk,
        "queued": batch.contacts.filter(status=ContactStatus.QUEUED).first().pk,
        "failed": batch.contacts.get(status=ContactStatus.FAILED).pk,
        "elsewhere": harbour.batch(queued=1).contacts.get().pk,
        "agency": harbour.agency.pk,
        "campaign": harbour.campaign.pk,
    }


@pytest.mark.parametrize("write", WRITES)
def test_where_the_batch_is_live_the_write_goes_through(writer, rows, write):
    assert writer.execute(WRITES[write], rows).rowcount == 1


@pytest.mark.parametrize("write", WRITES)
def test_where_the_batch_is_finished_the_write_is_refused(writer, rows, write):
    cancel(CallBatch.objects.get(pk=rows["batch"]))

    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        writer.execute(WRITES[write], rows)

    assert refused.value.diag.constraint_name == "contact_batch_live"


def test_a_live_batch_can_be_resumed_and_that_is_history(writer, rows):
    CallBatch.objects.update(status=BatchStatus.PAUSED)

    changed = writer.execute(RESUMES, rows).rowcount

    batch = CallBatch.objects.get(pk=rows["batch"])
    if writer.sees_batches:
        assert (changed, batch.events.latest("pk").status) == (1, BatchStatus.PROCESSING)
        assert batch.events.latest("pk").pgh_context is None
    else:
        assert changed == 0


def test_a_finished_batch_cannot_be_resumed(writer, rows):
    batch = CallBatch.objects.get(pk=rows["batch"])
    cancel(batch)

    if writer.sees_batches:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            writer.execute(RESUMES, rows)
        assert refused.value.diag.constraint_name == "batch_final"
    else:
        assert writer.execute(RESUMES, rows).rowcount == 0


def test_the_last_call_is_counted_on_a_finished_batch(writer, rows):
    cancel(CallBatch.objects.get(pk=rows["batch"]))

    assert writer.execute(COUNTS, rows).rowcount == int(writer.sees_batches)


def test_an_insert_that_names_only_what_has_no_default_works(writer, rows):
    writer.execute(WRITES["adds a contact"], rows)

    contact = CampaignContact.objects.get(phone_number="+12125550100", attempts=0, status=ContactStatus.PENDING)
    assert (contact.custom_data, contact.first_name, contact.max_attempts, contact.do_not_call) == ({}, "", 3, False)
    assert contact.created_at == contact.updated_at
    assert contact.outcome is None
