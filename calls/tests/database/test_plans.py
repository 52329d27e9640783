"""Query plans among 100,000 batches and 200,000 contacts, and the index writes of a cancel."""

from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from calls.dialler.pacing import MINUTE
from calls.models import AgencyUser, CallBatch, Campaign, CampaignContact, WebhookEvent
from calls.models.refusals import latest_results
from calls.roles import Role
from calls.tests.support.admin_pages import CONTACTS
from calls.tests.support.factories import FUNCTIONS, cancel, client_of, staff
from calls.tests.support.many_rows import hundred_agencies, vacuum_tables

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]


@pytest.fixture(scope="module")
def _many_rows(django_db_setup, django_db_blocker):
    """
    Create 100,000 batches, 1,000 for each agency, by plain SQL.

    The two oldest batches have 100,000 contacts each, half of them called. The newest batch gets its 10,000 contacts
    after VACUUM and ANALYZE, so the planner's statistics do not include them.
    """
    with django_db_blocker.unblock(), hundred_agencies() as cursor:
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
                LATERAL (SELECT n <= 50000 AS called, now() - n * interval '1 second' AS at) AS state
            """
        )
        vacuum_tables(cursor)
        cursor.execute(
            """
            INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, status)
            SELECT b.agency_id, b.campaign_id, b.id, '+12125550100', 'queued'
            FROM (SELECT * FROM call_batches ORDER BY created_at DESC LIMIT 1) b, generate_series(1, 10000)
            """
        )
        cursor.execute("RESET session_replication_role")
        yield


@pytest.mark.usefixtures("_many_rows")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda batch: CallBatch.objects.for_agency(batch.agency_id).with_names().newest_first(), "batch_of_agency"),
        (lambda batch: batch.contacts.oldest_first(), "contact_in_order"),
    ],
    ids=["list", "get"],
)
def test_a_page_is_read_in_order_from_an_index(query, index):
    batch = CallBatch.objects.order_by("created_at").first()

    plan = query(batch)[:50].explain()

    assert index in plan
    assert "Sort" not in plan
    assert "Seq Scan on call_batches" not in plan
    assert "Seq Scan on campaign_contacts" not in plan


@pytest.mark.usefixtures("_many_rows")
def test_the_latest_results_of_a_batch_are_read_from_an_index():
    batch = CallBatch.objects.order_by("created_at").first()
    contact = batch.contacts.dialable().first()

    with CaptureQueriesContext(connection) as queries:
        assert len(latest_results(batch, excluding=contact)) == 4
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {queries[0]['sql']}")
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert "Index Scan Backward using contact_attempted_in" in plan
    assert "Sort" not in plan


def plans_of_pages(send):
    """Call ``send``. Return the plans of its queries with OFFSET, and of the queries that read rows by their ids."""
    with CaptureQueriesContext(connection) as queries:
        assert send().status_code == 200
    statements = [query["sql"] for query in queries]
    with connection.cursor() as cursor:

        def plan(sql):
            cursor.execute(f"EXPLAIN {sql}")
            return "\n".join(line for (line,) in cursor.fetchall())

        return (
            [plan(sql) for sql in statements if " OFFSET " in sql],
            [plan(sql) for sql in statements if '"id" IN (' in sql],
        )


@pytest.mark.usefixtures("_many_rows")
@pytest.mark.parametrize("offset", [50, 90_000])
def test_a_page_of_contacts_is_chosen_from_the_index_alone_and_read_by_primary_key(offset):
    batch = CallBatch.objects.order_by("created_at").first()
    member = AgencyUser.objects.create(id=uuid4(), agency_id=batch.agency_id, role=Role.AGENCY_MEMBER)

    (page,), (rows,) = plans_of_pages(
        lambda: client_of(member).get(f"{FUNCTIONS}get?batch_id={batch.pk}&contact_offset={offset}")
    )

    assert "Index Only Scan using contact_in_order" in page
    assert "Sort" not in page
    assert "campaign_contacts_pkey" in rows


@pytest.mark.usefixtures("_many_rows")
def test_a_page_of_batches_is_chosen_without_reading_the_names_of_earlier_batches():
    agency = CallBatch.objects.order_by("created_at").first().agency
    member = AgencyUser.objects.create(id=uuid4(), agency=agency, role=Role.AGENCY_MEMBER)

    (page,), (rows,) = plans_of_pages(lambda: client_of(member).get(f"{FUNCTIONS}list?offset=900"))

    assert "batch_of_agency" in page
    assert "SubPlan" not in page
    assert "call_batches_pkey" in rows


@pytest.mark.usefixtures("_many_rows")
def test_a_page_of_a_clients_batches_is_chosen_among_those_of_its_agency():
    campaign = CallBatch.objects.order_by("created_at").first().campaign
    client_id = uuid4()
    viewer = AgencyUser.objects.create(
        id=uuid4(), agency_id=campaign.agency_id, role=Role.CLIENT_VIEWER, client_id=client_id
    )
    Campaign.objects.filter(pk=campaign.pk).update(client_id=client_id)
    Campaign.objects.create(agency_id=campaign.agency_id, name="Autumn", client_id=uuid4())

    (page,), (rows,) = plans_of_pages(lambda: client_of(viewer).get(f"{FUNCTIONS}list?offset=25"))

    assert "batch_of_agency" in page
    assert "Seq Scan on call_batches" not in page
    assert "call_batches_pkey" in rows


@pytest.mark.usefixtures("_many_rows")
def test_the_admin_chooses_a_page_of_contacts_from_the_index_alone():
    batch = CallBatch.objects.order_by("created_at").first()
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(staff("operator", "view_campaigncontact"))

    (page,), (rows,) = plans_of_pages(lambda: client.get(CONTACTS, {"batch": batch.pk, "p": 900}))

    assert "Index Only Scan using contact_in_order" in page
    assert "campaign_contacts_pkey" in rows


@pytest.mark.usefixtures("_many_rows")
def test_a_batch_is_found_by_its_primary_key():
    batch = CallBatch.objects.order_by("created_at").first()

    plan = CallBatch.objects.for_agency(batch.agency_id).with_names().filter(pk=batch.pk).explain()

    assert "call_batches_pkey" in plan


@pytest.mark.usefixtures("_many_rows")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda batch: batch.contacts.claimable().in_call_order(), "contact_in_call_order"),
        (lambda batch: batch.contacts.unfinished().in_call_order(), "contact_in_call_order"),
        (lambda batch: CampaignContact.objects.with_call_in_progress(batch.pk), "contact_under_way_in"),
        (lambda batch: CampaignContact.objects.attempted_within(MINUTE, batch.pk), "contact_attempted_in"),
    ],
    ids=["next contact", "unfinished contacts", "calls in progress", "attempts in the last minute"],
)
@pytest.mark.parametrize("oldest", ["created_at", "-created_at"], ids=["half called", "newer than the statistics"])
def test_each_query_of_a_claim_reads_one_index(query, index, oldest):
    batch = CallBatch.objects.order_by(oldest).first()

    plan = query(batch)[:1].explain()

    assert f" {index}" in plan
    assert "contact_in_order" not in plan
    assert "Seq Scan" not in plan


@pytest.mark.usefixtures("_many_rows")
def test_the_sweep_reads_only_contacts_with_a_call_in_progress():
    assert " contact_under_way_in" in CampaignContact.objects.with_call_in_progress().explain()


def test_the_events_about_a_contact_are_found_by_an_index(harbour):
    events = [
        WebhookEvent(agency=harbour.agency, event="call.ended", identity=n, contact_id=uuid4()) for n in range(1000)
    ]
    WebhookEvent.objects.bulk_create(events)

    assert "webhook_event_of_contact" in WebhookEvent.objects.about_contact(events[0].contact_id).explain()


@pytest.mark.django_db(transaction=True)
@pytest.mark.not_adopted
def test_a_cancel_updates_each_contact_without_writing_to_an_index(harbour):
    # The batch is not started, because that would write a second version of each contact. Whether PostgreSQL can remove
    # the first one in time depends on other transactions.
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

        # All of them are heap-only tuple (HOT) updates.
        assert [now - earlier for now, earlier in zip(updated(), before, strict=True)] == [500, 500]
