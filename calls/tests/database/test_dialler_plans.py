"""Query plans of the dialler among 10,000 batches, of which 1,000 are due."""

from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler import claims
from calls.dialler.sweep import batches_to_sweep
from calls.dialler.waiting import due_batches
from calls.models import CallBatch, CampaignContact
from calls.tests.support.many_rows import hundred_agencies, vacuum_tables

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted, pytest.mark.usefixtures("_platform")]

# The indexes of contacts that a claim and a round read. The other ones would be slower.
CLAIM_INDEXES = {"contact_in_call_order", "contact_under_way_in", "contact_attempted_in", "contact_calling_number"}


@pytest.fixture(scope="module")
def _platform(django_db_setup, django_db_blocker):
    """
    Create 10,000 batches of 100 agencies, each of which has ten batches that are due, by plain SQL.

    A due batch has 30 contacts: ten were called, ten are being called and ten wait. The oldest due batch has 40,000
    more, half of them called. Every other batch has two called contacts. The newest due batch gets 10,000 contacts
    after VACUUM and ANALYZE, so the planner's statistics do not include them.
    """
    with django_db_blocker.unblock(), hundred_agencies() as cursor:
        cursor.execute(
            """
            INSERT INTO call_batches (
                agency_id, campaign_id, agent_mapping_id, from_number, created_at, started_at, status
            )
            SELECT a.id, c.id, m.id, '+12125550199', now() - n * interval '1 minute', now(),
                CASE WHEN n % 10 = 0 THEN 'processing' ELSE 'completed' END
            FROM agencies a JOIN campaigns c ON c.agency_id = a.id JOIN agent_mappings m ON m.agency_id = a.id,
                generate_series(1, 100) n
            """
        )
        add_contacts(cursor, "status = 'completed'", "completed", 2)
        for status, count in (("completed", 10), ("in_progress", 10), ("queued", 10)):
            add_contacts(cursor, "status = 'processing'", status, count)
        for status in ("completed", "queued"):
            add_contacts(cursor, f"id = '{oldest_due_batch().pk}'", status, 20_000)
        vacuum_tables(cursor)
        add_contacts(cursor, f"id = '{newest_due_batch().pk}'", "queued", 10_000)
        cursor.execute("RESET session_replication_role")
        yield


def add_contacts(cursor, batches, status, count):
    """Add ``count`` contacts in a status to each of the batches with this condition."""
    cursor.execute(
        f"""
        INSERT INTO campaign_contacts (
            agency_id, campaign_id, batch_id, phone_number, status, last_attempt_at, outcome, completed_at
        )
        SELECT agency_id, campaign_id, id, '+1212' || (10000000 + random() * 80000000)::int, '{status}',
            CASE WHEN '{status}' <> 'queued' THEN now() - n * interval '1 second' END,
            CASE WHEN '{status}' = 'completed' THEN 'answered' END,
            CASE WHEN '{status}' = 'completed' THEN now() END
        FROM (SELECT * FROM call_batches WHERE {batches}) AS batches, generate_series(1, {count}) n
        """
    )


def oldest_due_batch():
    return CallBatch.objects.due().oldest_first().first()


def newest_due_batch():
    return CallBatch.objects.due().newest_first().first()


EITHER_BATCH = pytest.mark.parametrize(
    "batch", [oldest_due_batch, newest_due_batch], ids=["half called", "newer than the statistics"]
)


def plan_of(sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}", parameters)
        return "\n".join(line for (line,) in cursor.fetchall())


def contact_indexes(plan):
    """Return the indexes of contacts that the plan reads, apart from the primary key."""
    names = (index.name for index in CampaignContact._meta.indexes)
    return {name for name in names if f" {name}" in plan}


def reads_a_whole_table(plan):
    return "Seq Scan on campaign_contacts" in plan or "Seq Scan on call_batches" in plan


def looks_up_the_number(plan):
    """
    Return whether the index of numbers that are being called is searched for the contact's number.

    A join would read all of these numbers instead if there were only a few when the statistics were made.
    """
    _, _, scan = plan.rpartition(" contact_calling_number")
    return "(phone_number = contact.phone_number)" in scan and "Join" not in plan


def test_the_due_batches_are_found_by_their_index_and_their_contacts_by_index_look_ups():
    plan = due_batches().explain()

    assert " batch_to_dial" in plan
    assert contact_indexes(plan) == CLAIM_INDEXES
    assert not reads_a_whole_table(plan)


def test_1_000_of_10_000_batches_are_due():
    assert CallBatch.objects.count() == 10_000
    assert len(due_batches()) == 1_000


@EITHER_BATCH
@pytest.mark.parametrize(
    "called_before", [None, "2026-01-01T00:00:00Z"], ids=["by a worker", "by a pass that has begun before"]
)
def test_the_statement_that_chooses_a_contact_reads_four_indexes(batch, called_before):
    read = batch()

    plan = plan_of(
        claims._CHOOSE,
        {
            "batch": read.pk,
            "agency": read.agency_id,
            "claim_lock": "a name",
            "retry_pause": 300,
            "called_before": called_before,
        },
    )

    assert contact_indexes(plan) == CLAIM_INDEXES
    assert not reads_a_whole_table(plan)
    assert looks_up_the_number(plan)
    # The index has the order in which contacts are called.
    assert "Sort" not in plan


@EITHER_BATCH
def test_the_statement_that_claims_a_contact_looks_it_up_by_its_id_and_its_number_by_an_index(batch):
    read = batch()
    contact = read.contacts.dialable()[0]

    plan = plan_of(
        claims._CLAIM,
        {
            "contact": contact.pk,
            "batch": read.pk,
            "agency": read.agency_id,
            "attempts": 1,
            "now": timezone.now(),
        },
    )

    assert " campaign_contacts_pkey" in plan
    assert " call_batches_pkey" in plan
    assert contact_indexes(plan) == {"contact_calling_number"}
    assert not reads_a_whole_table(plan)
    assert looks_up_the_number(plan)


def test_the_statement_that_chooses_a_contact_reads_no_table_for_a_batch_that_does_not_exist():
    parameters = {
        "batch": uuid4(),
        "agency": uuid4(),
        "claim_lock": "a name",
        "retry_pause": 0,
        "called_before": None,
    }

    assert not reads_a_whole_table(plan_of(claims._CHOOSE, parameters))


def test_the_sweep_finds_the_batches_to_ask_about_by_an_index():
    with CaptureQueriesContext(connection) as queries:
        assert batches_to_sweep() == []
    (sql,) = (query["sql"] for query in queries if "campaign_contacts" in query["sql"])

    plan = plan_of(sql)

    assert contact_indexes(plan) == {"contact_under_way_in"}
    assert "Seq Scan on campaign_contacts" not in plan
