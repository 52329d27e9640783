"""Other services that write the same tables by SQL: what they may write in a live batch and in a finished one."""

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

# What another service may write. ``elsewhere`` is a contact of another batch.
WRITES = {
    "claims a contact": "UPDATE public.campaign_contacts SET status = 'in_progress' WHERE id = %(queued)s",
    "claims a contact again": """
        UPDATE public.campaign_contacts SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = now()
        WHERE id = %(in_progress)s
    """,
    "retries a contact": "UPDATE public.campaign_contacts SET status = 'queued' WHERE id = %(failed)s",
    "moves a contact in": "UPDATE public.campaign_contacts SET batch_id = %(batch)s WHERE id = %(elsewhere)s",
    "adds a contact": """
        INSERT INTO public.campaign_contacts (agency_id, campaign_id, batch_id, phone_number)
        VALUES (%(agency)s, %(campaign)s, %(batch)s, '+12125550100')
    """,
}
RESUMES = "UPDATE public.call_batches SET status = 'processing' WHERE id = %(batch)s"
COUNTS = "UPDATE public.call_batches SET completed = completed + 1 WHERE id = %(batch)s"


@pytest.fixture(params=["the owner", "a role that bypasses row level security", "a role that sees contacts only"])
def writer(request, db):
    """
    A connection of another service, with an empty search_path, for each kind of role.

    Row level security is on for every table, without a policy. It does not apply to the owner, and Supabase's
    ``service_role`` bypasses it. The third role has a policy on the contacts only, so it sees no batch. Only the owner
    has rights on the app's own tables.
    """
    name = f"edge_{uuid.uuid4().hex[:12]}"
    with connection.cursor() as cursor:
        if request.param == "the owner":
            options, cleanup = "-c search_path=", ""
        else:
            bypass = "BYPASSRLS" if "bypasses" in request.param else "NOBYPASSRLS"
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
    batch = harbour.batch(queued=2, in_progress=1, failed=1)
    return {
        "batch": batch.pk,
        "queued": batch.contacts.filter(status=ContactStatus.QUEUED).first().pk,
        "in_progress": batch.contacts.get(status=ContactStatus.IN_PROGRESS).pk,
        "failed": batch.contacts.get(status=ContactStatus.FAILED).pk,
        "elsewhere": harbour.batch(queued=1).contacts.get().pk,
        "agency": harbour.agency.pk,
        "campaign": harbour.campaign.pk,
    }


@pytest.mark.parametrize("write", WRITES)
def test_a_write_in_a_live_batch_succeeds(writer, rows, write):
    assert writer.execute(WRITES[write], rows).rowcount == 1


@pytest.mark.parametrize("write", WRITES)
def test_a_write_in_a_cancelled_batch_is_refused(writer, rows, write):
    cancel(CallBatch.objects.get(pk=rows["batch"]))

    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        writer.execute(WRITES[write], rows)

    assert refused.value.diag.constraint_name == "contact_batch_live"


def test_a_paused_batch_can_be_resumed_and_the_history_records_it(writer, rows):
    CallBatch.objects.update(status=BatchStatus.PAUSED)

    changed = writer.execute(RESUMES, rows).rowcount

    batch = CallBatch.objects.get(pk=rows["batch"])
    if writer.sees_batches:
        assert (changed, batch.events.latest("pk").status) == (1, BatchStatus.PROCESSING)
        assert batch.events.latest("pk").pgh_context is None
    else:
        assert changed == 0


def test_a_cancelled_batch_cannot_be_resumed(writer, rows):
    batch = CallBatch.objects.get(pk=rows["batch"])
    cancel(batch)

    if writer.sees_batches:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            writer.execute(RESUMES, rows)
        assert refused.value.diag.constraint_name == "batch_final"
    else:
        assert writer.execute(RESUMES, rows).rowcount == 0


def test_the_last_call_can_be_counted_in_a_cancelled_batch(writer, rows):
    cancel(CallBatch.objects.get(pk=rows["batch"]))

    assert writer.execute(COUNTS, rows).rowcount == int(writer.sees_batches)


def test_an_insert_that_names_only_the_columns_without_a_default_works(writer, rows):
    writer.execute(WRITES["adds a contact"], rows)

    contact = CampaignContact.objects.get(phone_number="+12125550100", attempts=0, status=ContactStatus.PENDING)
    assert (contact.custom_data, contact.first_name, contact.max_attempts, contact.do_not_call) == ({}, "", 3, False)
    assert contact.created_at == contact.updated_at
    assert contact.outcome is None
