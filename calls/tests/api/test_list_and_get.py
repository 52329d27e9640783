"""GET /functions/v1/calls-batch-list and calls-batch-get: fields, order, filters and pages."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.models import CallBatch, Campaign, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, FUNCTIONS, PHONE

pytestmark = pytest.mark.django_db

LIST, GET = f"{FUNCTIONS}list", f"{FUNCTIONS}get"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def list_ids(owner):
    """Return the ids of the batches that calls-batch-list shows to Harbour's owner."""

    def list_ids(**parameters):
        response = owner.get(LIST, parameters)
        assert response.status_code == 200, response.content
        return [uuid.UUID(batch["id"]) for batch in response.json()["batches"]]

    return list_ids


@pytest.fixture
def contact_ids(owner):
    """Return the ids of the contacts that calls-batch-get shows to Harbour's owner."""

    def contact_ids(batch, **parameters):
        response = owner.get(GET, {"batch_id": str(batch.pk)} | parameters)
        assert response.status_code == 200, response.content
        return [uuid.UUID(contact["id"]) for contact in response.json()["contacts"]]

    return contact_ids


def create_batches(tenant, count, campaign=None):
    """Create batches, each of which is a minute older than the one before."""
    return CallBatch.objects.bulk_create(
        CallBatch(
            agency=tenant.agency,
            campaign=campaign or tenant.campaign,
            agent_mapping=tenant.agent,
            from_number=CALLER_ID,
            created_at=timezone.now() - timedelta(minutes=index),
        )
        for index in range(count)
    )


def test_a_batch_has_all_documented_fields(harbour, owner):
    batch = harbour.batch(BatchStatus.PROCESSING, queued=3, in_progress=1, completed=1, failed=1, skipped=1)
    CallBatch.objects.update(
        created_at=AT, started_at=AT, scheduled_for=AT, paused_at=AT, completed_at=AT, error_message="why"
    )

    (shown,) = owner.get(LIST).json()["batches"]

    assert shown == {
        "id": str(batch.pk),
        "agency_id": str(harbour.agency.pk),
        "campaign_id": str(harbour.campaign.pk),
        "campaign_name": "Spring",
        "agent_mapping_id": str(harbour.agent.pk),
        "agent_name": None,
        "from_number": CALLER_ID,
        "status": "processing",
        "total_contacts": 7,
        "queued": 3,
        "in_progress": 1,
        "completed": 1,
        "failed": 1,
        "skipped": 1,
        "progress_percentage": 42.9,
        "remaining_count": 4,
        "waiting_for": None,
        "calls_per_minute": 1000,
        "max_concurrent": 1000,
        "scheduled_for": "2026-01-02T03:04:05Z",
        "created_at": "2026-01-02T03:04:05Z",
        "started_at": "2026-01-02T03:04:05Z",
        "paused_at": "2026-01-02T03:04:05Z",
        "completed_at": "2026-01-02T03:04:05Z",
        "error_message": "why",
        "agency_held_at": None,
    }
    replacements = {"replaces": None, "replaced_by": None}
    assert owner.get(GET, {"batch_id": str(batch.pk)}).json()["batch"] == shown | replacements


@pytest.mark.parametrize(
    ("counters", "percentage", "remaining"),
    [
        ({}, 0.0, 0),
        ({"queued": 3}, 0.0, 3),
        ({"queued": 2, "skipped": 1}, 33.3, 2),
        ({"completed": 1, "failed": 1, "skipped": 1}, 100.0, 0),
    ],
)
def test_progress_counts_completed_failed_and_skipped_contacts(harbour, owner, counters, percentage, remaining):
    harbour.batch(**counters)

    (shown,) = owner.get(LIST).json()["batches"]

    assert (shown["progress_percentage"], shown["remaining_count"]) == (percentage, remaining)


def test_a_contact_has_all_documented_fields(harbour, owner):
    batch = harbour.batch()
    call_id = uuid.uuid4()
    contact = harbour.contact(
        batch,
        status=ContactStatus.FAILED,
        first_name="Zo\u00eb",
        last_name="Quigley",
        email="zoe@example.com",
        company="Harbour",
        title="Dr.",
        timezone="America/New_York",
        custom_data={"policy": ["A-17"]},
        call_id=call_id,
        attempts=3,
        outcome="no_answer",
        outcome_notes="rang",
        duration_seconds=45,
        last_attempt_at=AT,
        completed_at=AT,
        created_at=AT,
        do_not_call=True,
    )
    contact.save()

    (shown,) = owner.get(GET, {"batch_id": str(batch.pk)}).json()["contacts"]

    assert shown == {
        "id": str(contact.pk),
        "phone_number": PHONE,
        "first_name": "Zo\u00eb",
        "last_name": "Quigley",
        "email": "zoe@example.com",
        "company": "Harbour",
        "title": "Dr.",
        "status": "failed",
        "call_id": str(call_id),
        "attempts": 3,
        "max_attempts": 3,
        "outcome": "no_answer",
        "duration_seconds": 45,
        "outcome_notes": "rang",
        "last_attempt_at": "2026-01-02T03:04:05Z",
        "completed_at": "2026-01-02T03:04:05Z",
        "custom_data": {"policy": ["A-17"]},
        "do_not_call": True,
        "timezone": "America/New_York",
        "created_at": "2026-01-02T03:04:05Z",
    }


def test_batches_are_listed_newest_first(harbour, list_ids):
    batches = create_batches(harbour, 5)

    assert list_ids() == [batch.pk for batch in batches]


def test_batches_created_at_the_same_moment_have_a_stable_order(harbour, list_ids):
    create_batches(harbour, 9)
    CallBatch.objects.update(created_at=AT)

    pages = [pk for offset in range(0, 9, 2) for pk in list_ids(limit=2, offset=offset)]

    assert pages == sorted(CallBatch.objects.values_list("pk", flat=True), reverse=True)


def test_batches_of_another_agency_are_not_found(harbour, bluebell, list_ids, owner):
    batch = bluebell.batch(queued=1)

    assert list_ids() == []
    unknown = owner.get(GET, {"batch_id": str(uuid.uuid4())})
    others = owner.get(GET, {"batch_id": str(batch.pk)})
    assert (others.status_code, others.json()) == (404, {"error": "Batch not found", "code": "batch_not_found"})
    assert others.content == unknown.content


def test_batches_can_be_filtered_by_status_and_campaign(harbour, list_ids):
    other = Campaign.objects.create(agency=harbour.agency, name="Autumn")
    (autumn,) = create_batches(harbour, 1, campaign=other)
    paused = harbour.batch(BatchStatus.PAUSED)

    assert list_ids(status="paused") == [paused.pk]
    assert list_ids(campaign_id=str(other.pk).upper()) == [autumn.pk]
    assert list_ids(campaign_id=str(other.pk), status="paused") == []
    assert len(list_ids(campaign_id="", status="")) == 2


@pytest.mark.parametrize("status", ["nonsense", "PAUSED", "cancelled\u0000", "'; --", "queued"])
def test_an_unknown_status_matches_no_batch(harbour, owner, status):
    harbour.batch(queued=1)

    response = owner.get(LIST, {"status": status})

    assert response.json() == {
        "batches": [],
        "pagination": {"total": 0, "limit": 25, "offset": 0, "has_more": False},
    }


@pytest.mark.parametrize("value", ["nonsense", "1", "01985f2c7a3e7c1d9b542f6f0c9d1e10", "\u0000"])
def test_a_malformed_id_is_refused(harbour, owner, value):
    listing, getting = owner.get(LIST, {"campaign_id": value}), owner.get(GET, {"batch_id": value})

    assert (listing.status_code, listing.json()["code"]) == (400, "campaign_id_invalid")
    assert (getting.status_code, getting.json()["code"]) == (400, "batch_id_invalid")


@pytest.mark.parametrize("parameters", [{}, {"batch_id": ""}])
def test_get_requires_a_batch_id(harbour, owner, parameters):
    response = owner.get(GET, parameters)

    assert (response.status_code, response.json()["code"]) == (400, "batch_id_required")


@pytest.mark.parametrize(
    ("parameters", "limit", "offset"),
    [
        ({}, 25, 0),
        ({"limit": "3"}, 3, 0),
        ({"limit": "0"}, 1, 0),
        ({"limit": "-5", "offset": "-5"}, 1, 0),
        ({"limit": "1000"}, 100, 0),
        ({"limit": "007", "offset": "-0"}, 7, 0),
        ({"limit": "9" * 30, "offset": "9" * 30}, 100, int("9" * 30)),
        ({"limit": "", "offset": ""}, 25, 0),
        ({"limit": "2", "offset": "117"}, 2, 117),
        ({"limit": "2", "offset": "118"}, 2, 118),
    ],
    ids=str,
)
def test_limit_and_offset_are_clamped(harbour, owner, parameters, limit, offset):
    create_batches(harbour, 120)

    answer = owner.get(LIST, parameters).json()

    assert answer["pagination"] == {
        "total": 120,
        "limit": limit,
        "offset": offset,
        "has_more": offset + limit < 120,
    }
    assert len(answer["batches"]) == max(0, min(limit, 120 - offset))


@pytest.mark.parametrize(
    "value",
    [
        *("ten", "1.5", "1e1", "NaN", "undefined", "9" * 5000),
        *("1_0", " 5", "5 ", "5\n", "+5", "--5", "-", "0x5", "5\0", "\uff15", "\u0665", "1\u0660", "\u00b2"),
    ],
    ids=ascii,
)
def test_a_limit_or_offset_that_is_not_an_integer_counts_as_not_given(harbour, owner, value):
    listing = owner.get(LIST, {"limit": value, "offset": value})
    getting = owner.get(GET, {"batch_id": str(harbour.batch().pk), "contact_limit": value, "contact_offset": value})

    assert listing.json()["pagination"] == {"total": 0, "limit": 25, "offset": 0, "has_more": False}
    assert getting.json()["contact_pagination"] == {"total": 0, "limit": 50, "offset": 0, "has_more": False}


def test_the_contacts_of_a_batch_are_paginated(harbour, owner):
    batch = harbour.batch(queued=230)

    def page(**parameters):
        answer = owner.get(GET, {"batch_id": str(batch.pk)} | parameters).json()
        return len(answer["contacts"]), answer["contact_pagination"]

    assert page() == (50, {"total": 230, "limit": 50, "offset": 0, "has_more": True})
    assert page(contact_limit=999) == (200, {"total": 230, "limit": 200, "offset": 0, "has_more": True})
    assert page(contact_limit=200, contact_offset=200) == (
        30,
        {"total": 230, "limit": 200, "offset": 200, "has_more": False},
    )


def test_contacts_are_listed_oldest_first_whatever_their_ids(harbour, contact_ids):
    batch = harbour.batch()
    ids = [uuid.uuid4() for _ in range(9)]
    CampaignContact.objects.bulk_create(
        harbour.contact(batch, id=pk, created_at=AT + timedelta(seconds=index)) for index, pk in enumerate(ids)
    )

    assert contact_ids(batch) == ids


def test_contacts_created_at_the_same_moment_have_a_stable_order(harbour, contact_ids):
    batch = harbour.batch()
    CampaignContact.objects.bulk_create(harbour.contact(batch, id=uuid.uuid4(), created_at=AT) for _ in range(9))

    pages = [pk for offset in range(0, 9, 2) for pk in contact_ids(batch, contact_limit=2, contact_offset=offset)]

    assert pages == sorted(batch.contacts.values_list("pk", flat=True))


def test_contacts_can_be_filtered_by_status(harbour, contact_ids):
    batch = harbour.batch(queued=2, failed=1, completed=1)

    assert contact_ids(batch, contact_status="failed") == [batch.contacts.get(status=ContactStatus.FAILED).pk]
    assert contact_ids(batch, contact_status="paused") == []
    assert contact_ids(batch, contact_status="nonsense") == []
    assert len(contact_ids(batch, contact_status="")) == 4


@pytest.mark.parametrize("path", ["list", "get"])
def test_the_number_of_statements_does_not_depend_on_the_page_size(harbour, owner, path):
    create_batches(harbour, 100)
    batch = harbour.batch(queued=200)

    def statements(limit):
        parameters = {"limit": limit, "contact_limit": limit, "batch_id": str(batch.pk)}
        with CaptureQueriesContext(connection) as queries:
            assert owner.get(f"{FUNCTIONS}{path}", parameters).status_code == 200
        return [query["sql"] for query in queries if 'FROM "c' in query["sql"]]

    few, lots = statements(3), statements(100)

    assert len(few) == len(lots) == {"list": 3, "get": 4}[path]
    assert sum("COUNT(*)" in sql for sql in lots) == 1


def test_unknown_query_parameters_are_ignored(harbour, list_ids):
    batch = harbour.batch()

    assert list_ids(format="xml", agency_id=str(uuid.uuid4()), order="asc") == [batch.pk]
