"""How rows are found among a hundred thousand, which a module of its own lays out, and what a cancel writes."""

import pytest
from django.db import connection, transaction

from calls.dialler.pacing import MINUTE
from calls.models import CallBatch, CampaignContact
from calls.tests.support.factories import cancel

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def _hundred_thousand(django_db_setup, django_db_blocker):
    """
    An agency's 1,000 batches among 100,000, and two batches of 100,000 contacts each, of whom half have been called.

    Made by plain SQL. The youngest batch has 10,000 contacts that no statistics know of.
    """
    tables = ("agencies", "campaigns", "agent_mappings", "call_batches", "campaign_contacts")
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        # Without the triggers, which are made for one batch at a time.
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("INSERT INTO agencies (name, slug) SELECT 'A', 'a' || n FROM generate_series(1, 100) n")
        cursor.execute("INSERT INTO campaigns (agency_id, name) SELECT id, 'C' FROM agencies")
        cursor.execute("INSERT INTO agent_mappings (agency_id, ultravox_agent_id) SELECT id, 'x' FROM agencies")
        cursor.execute(
            """
            INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number, created_at)
            SELECT a.id, c.id, m.id, '+12125550199', now() - n * interval '1 minute'
            FROM agencies a JOIN campaigns c ON c.agency_id = a.id JOIN agent_mappings m ON m.agency_id = a.id,
                generate_series(1, 1000) n
            """
        )
        cursor.execute(
            """
            INSERT INTO campaign_contacts (
                agency_id, campaign_id, batch_id, phone_number, status, outcome, last_attempt_at, completed_at
            )
            SELECT b.agency_id, b.campaign_id, b.id, '+12125550100',
                CASE WHEN called THEN 'completed' ELSE 'queued' END, CASE WHEN called THEN 'answered' END,
                CASE WHEN called THEN at END, CASE WHEN called THEN at END
            FROM (SELECT * FROM call_batches ORDER BY created_at LIMIT 2) b, generate_series(1, 100000) n,
                LATERAL (SELECT n <= 50000 AS called, now() - n * interval '1 second' AS at) AS life
            """
        )
        for table in tables:
            cursor.execute(f"ANALYZE {table}")
        cursor.execute(
            """
            INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, status)
            SELECT b.agency_id, b.campaign_id, b.id, '+12125550100', 'queued'
            FROM (SELECT * FROM call_batches ORDER BY created_at DESC LIMIT 1) b, generate_series(1, 10000)
            """
        )
        cursor.execute("RESET session_replication_role")
        yield
        cursor.execute(f"TRUNCATE {', '.join(tables)} CASCADE")


@pytest.mark.usefixtures("_hundred_thousand")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda batch: CallBatch.objects.for_agency(batch.agency_id).with_names().newest_first(), "batch_of_agency"),
        (lambda batch: batch.contacts.oldest_first(), "contact_in_order"),
    ],
    ids=["list", "get"],
)
def test_a_page_among_a_hundred_thousand_is_read_from_an_index_in_its_order(query, index):
    batch = CallBatch.objects.order_by("created_at").first()

    plan = query(batch)[:50].explain()

    assert index in plan
    assert "Sort" not in plan
    assert "Seq Scan on call_batches" not in plan
    assert "Seq Scan on campaign_contacts" not in plan


@pytest.mark.usefixtures("_hundred_thousand")
def test_a_batch_among_a_hundred_thousand_is_found_by_its_id():
    batch = CallBatch.objects.order_by("created_at").first()

    plan = CallBatch.objects.for_agency(batch.agency_id).with_names().filter(pk=batch.pk).explain()

    assert "call_batches_pkey" in plan


@pytest.mark.usefixtures("_hundred_thousand")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda batch: batch.contacts.claimable().in_call_order(), "contact_not_over"),
        (lambda batch: batch.contacts.unfinished().in_call_order(), "contact_not_over"),
        (lambda batch: CampaignContact.objects.with_call_in_progress(batch.pk), "contact_under_way_in"),
        (lambda batch: CampaignContact.objects.attempted_within(MINUTE, batch.pk), "contact_attempted_in"),
    ],
    ids=["whose turn it is", "whether it is over", "under way", "in the last minute"],
)
@pytest.mark.parametrize("oldest", ["created_at", "-created_at"], ids=["half-way", "younger than the statistics"])
def test_what_a_claim_asks_of_a_batch_one_index_answers(query, index, oldest):
    batch = CallBatch.objects.order_by(oldest).first()

    plan = query(batch)[:1].explain()

    assert f" {index}" in plan
    assert "contact_in_order" not in plan
    assert "Seq Scan" not in plan


@pytest.mark.usefixtures("_hundred_thousand")
def test_the_sweep_looks_at_no_contact_that_is_not_under_way():
    assert " contact_under_way_in" in CampaignContact.objects.with_call_in_progress().explain()


@pytest.mark.django_db(transaction=True)
@pytest.mark.not_adopted
def test_a_cancel_writes_beside_each_contact_and_into_no_index(harbour):
    # Not started, which would write a second version of each: whether that can be cleared away others may decide.
    batch = harbour.batch(queued=500)

    with transaction.atomic(), connection.cursor() as cursor:

        def updated():
            cursor.execute(
                "SELECT pg_stat_get_xact_tuples_updated(oid), pg_stat_get_xact_tuples_hot_updated(oid)"
                " FROM pg_class WHERE oid = 'campaign_contacts'::regclass"
            )
            return cursor.fetchone()

        before = updated()
        cancel(batch)

        # Heap-only, all of them.
        assert [now - earlier for now, earlier in zip(updated(), before, strict=True)] == [500, 500]
