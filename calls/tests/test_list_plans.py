"""How list and get find their rows among a hundred thousand, which a module of its own lays out."""

import pytest
from django.db import connection

from calls.models import CallBatch

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def _hundred_thousand(django_db_setup, django_db_blocker):
    """An agency's 1,000 batches among 100,000, and a batch of 100,000 contacts among 200,000; made by plain SQL."""
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
            INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number)
            SELECT b.agency_id, b.campaign_id, b.id, '+12125550100'
            FROM (SELECT * FROM call_batches ORDER BY created_at LIMIT 2) b, generate_series(1, 100000)
            """
        )
        for table in tables:
            cursor.execute(f"ANALYZE {table}")
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
