"""GET /functions/v1/calls-batch-list and calls-batch-get: what an agency can see of its batches."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.api.pagination import ClampedPagination
from calls.dialler.claims import claim_next_contact
from calls.models import CallBatch, Campaign, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import CALLER_ID, FUNCTIONS, PHONE, call, client_of

pytestmark = pytest.mark.django_db

LIST, GET = f"{FUNCTIONS}list", f"{FUNCTIONS}get"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def listed(owner):
    """The batches that Harbour's owner is shown."""

    def listed(**parameters):
        response = owner.get(LIST, parameters)
        assert response.status_code == 200, response.content
        return [uuid.UUID(batch["id"]) for batch in response.json()["batches"]]

    return listed


@pytest.fixture
def contacts(owner):
    """The contacts of a batch that Harbour's owner is shown."""

    def contacts(batch, **parameters):
        response = owner.get(GET, {"batch_id": str(batch.pk)} | parameters)
        assert response.status_code == 200, response.content
        return [uuid.UUID(contact["id"]) for contact in response.json()["contacts"]]

    return contacts


def many(tenant, count, campaign=None):
    """So many batches, each a minute older than the one before it."""
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


# A batch, as both show it


def test_a_batch_is_shown_with_all_that_is_promised(harbour, owner):
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
        "calls_per_minute": 1000,
        "max_concurrent": 1000,
        "scheduled_for": "2026-01-02T03:04:05Z",
        "created_at": "2026-01-02T03:04:05Z",
        "started_at": "2026-01-02T03:04:05Z",
        "paused_at": "2026-01-02T03:04:05Z",
        "completed_at": "2026-01-02T03:04:05Z",
        "error_message": "why",
    }
    assert owner.get(GET, {"batch_id": str(batch.pk)}).json()["batch"] == shown


@pytest.mark.parametrize(
    ("counters", "percentage", "remaining"),
    [
        ({}, 0.0, 0),
        ({"queued": 3}, 0.0, 3),
        ({"queued": 2, "skipped": 1}, 33.3, 2),
        ({"completed": 1, "failed": 1, "skipped": 1}, 100.0, 0),
    ],
)
def test_progress_is_what_is_over_and_done_with(harbour, owner, counters, percentage, remaining):
    harbour.batch(**counters)

    (shown,) = owner.get(LIST).json()["batches"]

    assert (shown["progress_percentage"], shown["remaining_count"]) == (percentage, remaining)


def test_a_contact_is_shown_with_all_that_is_promised(harbour, owner):
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


# Which batches, and in which order


def test_batches_come_newest_first(harbour, listed):
    batches = many(harbour, 5)

    assert listed() == [batch.pk for batch in batches]


def test_those_of_the_same_moment_come_in_a_lasting_order(harbour, listed):
    many(harbour, 9)
    CallBatch.objects.update(created_at=AT)

    pages = [pk for offset in range(0, 9, 2) for pk in listed(limit=2, offset=offset)]

    assert pages == sorted(CallBatch.objects.values_list("pk", flat=True), reverse=True)


def test_another_agencys_batches_are_not_seen(harbour, bluebell, listed, owner):
    batch = bluebell.batch(queued=1)

    assert listed() == []
    unknown = owner.get(GET, {"batch_id": str(uuid.uuid4())})
    others = owner.get(GET, {"batch_id": str(batch.pk)})
    assert (others.status_code, others.json()) == (404, {"error": "Batch not found", "code": "batch_not_found"})
    assert others.content == unknown.content


def test_they_can_be_filtered_by_status_and_campaign(harbour, listed):
    other = Campaign.objects.create(agency=harbour.agency, name="Autumn")
    (autumn,) = many(harbour, 1, campaign=other)
    paused = harbour.batch(BatchStatus.PAUSED)

    assert listed(status="paused") == [paused.pk]
    assert listed(campaign_id=str(other.pk).upper()) == [autumn.pk]
    assert listed(campaign_id=str(other.pk), status="paused") == []
    assert len(listed(campaign_id="", status="")) == 2


@pytest.mark.parametrize("status", ["nonsense", "PAUSED", "cancelled\u0000", "'; --", "queued"])
def test_an_unknown_status_finds_nothing(harbour, owner, status):
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
def test_get_needs_an_id(harbour, owner, parameters):
    response = owner.get(GET, parameters)

    assert (response.status_code, response.json()["code"]) == (400, "batch_id_required")


# Pages


@pytest.mark.parametrize(
    ("asked", "limit", "offset"),
    [
        ({}, 25, 0),
        ({"limit": "3"}, 3, 0),
        ({"limit": "0"}, 1, 0),
        ({"limit": "-5", "offset": "-5"}, 1, 0),
        ({"limit": "1000"}, 100, 0),
        ({"limit": "9" * 30, "offset": "9" * 30}, 100, int("9" * 30)),
        ({"limit": "", "offset": ""}, 25, 0),
        ({"limit": "2", "offset": "117"}, 2, 117),
        ({"limit": "2", "offset": "118"}, 2, 118),
    ],
    ids=str,
)
def test_limit_and_offset_are_clamped(harbour, owner, asked, limit, offset):
    many(harbour, 120)

    answer = owner.get(LIST, asked).json()

    assert answer["pagination"] == {
        "total": 120,
        "limit": limit,
        "offset": offset,
        "has_more": offset + limit < 120,
    }
    assert len(answer["batches"]) == max(0, min(limit, 120 - offset))


@pytest.mark.parametrize("value", ["ten", "1.5", "NaN", "undefined", "9" * 5000])
@pytest.mark.parametrize("name", ["limit", "offset"])
def test_what_is_no_number_is_refused(harbour, owner, name, value):
    listing = owner.get(LIST, {name: value})
    getting = owner.get(GET, {"batch_id": str(harbour.batch().pk), f"contact_{name}": value})

    assert (listing.status_code, listing.json()["code"]) == (400, f"{name}_invalid")
    assert (getting.status_code, getting.json()["code"]) == (400, f"contact_{name}_invalid")


def test_contacts_have_pages_of_their_own(harbour, owner):
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


# Which contacts, and in which order


def test_contacts_come_oldest_first_whatever_their_ids(harbour, contacts):
    batch = harbour.batch()
    ids = [uuid.uuid4() for _ in range(9)]
    CampaignContact.objects.bulk_create(
        harbour.contact(batch, id=pk, created_at=AT + timedelta(seconds=index)) for index, pk in enumerate(ids)
    )

    assert contacts(batch) == ids


def test_contacts_of_the_same_moment_come_in_a_lasting_order(harbour, contacts):
    batch = harbour.batch()
    CampaignContact.objects.bulk_create(harbour.contact(batch, id=uuid.uuid4(), created_at=AT) for _ in range(9))

    pages = [pk for offset in range(0, 9, 2) for pk in contacts(batch, contact_limit=2, contact_offset=offset)]

    assert pages == sorted(batch.contacts.values_list("pk", flat=True))


def test_contacts_can_be_filtered_by_status(harbour, contacts):
    batch = harbour.batch(queued=2, failed=1, completed=1)

    assert contacts(batch, contact_status="failed") == [batch.contacts.get(status=ContactStatus.FAILED).pk]
    assert contacts(batch, contact_status="paused") == []
    assert contacts(batch, contact_status="nonsense") == []
    assert len(contacts(batch, contact_status="")) == 4


# What it costs


@pytest.mark.parametrize("path", ["list", "get"])
def test_the_number_of_statements_does_not_depend_on_the_size_of_the_page(harbour, owner, path):
    many(harbour, 100)
    batch = harbour.batch(queued=200)

    def statements(limit):
        parameters = {"limit": limit, "contact_limit": limit, "batch_id": str(batch.pk)}
        with CaptureQueriesContext(connection) as queries:
            assert owner.get(f"{FUNCTIONS}{path}", parameters).status_code == 200
        return [query["sql"] for query in queries if 'FROM "c' in query["sql"]]

    few, lots = statements(3), statements(100)

    assert len(few) == len(lots) == {"list": 2, "get": 3}[path]
    assert sum("COUNT(*)" in sql for sql in lots) == 1


# What may be missing or fail


def test_a_batch_whose_names_are_gone_or_whose_counters_are_empty_is_shown_all_the_same(harbour, owner):
    harbour.batch()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM campaigns")
        for counter in ("queued", "total_contacts", "completed"):
            cursor.execute(f"ALTER TABLE call_batches ALTER {counter} DROP NOT NULL")
        cursor.execute("UPDATE call_batches SET queued = NULL, total_contacts = NULL, completed = NULL")

    (shown,) = owner.get(LIST).json()["batches"]

    assert (shown["campaign_name"], shown["queued"], shown["total_contacts"]) == (None, 0, 0)
    assert (shown["progress_percentage"], shown["remaining_count"]) == (0.0, 0)


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_a_time_that_only_the_database_has_a_word_for_keeps_nothing_from_being_seen_or_stopped(harbour, owner, moment):
    batch = harbour.batch(queued=2)
    with connection.cursor() as cursor:
        times = ("created_at", "updated_at", "scheduled_for", "started_at", "completed_at")
        cursor.execute(f"UPDATE call_batches SET {', '.join(f'{name} = %s' for name in times)}", [moment] * 5)
        times = ("created_at", "updated_at", "last_attempt_at", "completed_at")
        cursor.execute(f"UPDATE campaign_contacts SET {', '.join(f'{name} = %s' for name in times)}", [moment] * 4)
    shown = "0001-01-01T00:00:00Z" if moment.startswith(("-", "0044")) else "9999-12-31T23:59:59.999999Z"

    (listed,) = owner.get(LIST).json()["batches"]
    got = owner.get(GET, {"batch_id": str(batch.pk)}).json()

    assert listed["created_at"] == listed["completed_at"] == got["contacts"][0]["last_attempt_at"] == shown
    # Nobody who has come to an end is in turn.
    batch.contacts.update(completed_at=None)
    assert claim_next_contact(batch) is not None
    assert call(owner, "pause", {"batch_id": str(batch.pk)}).status_code == 200
    assert call(owner, "cancel", {"batch_id": str(batch.pk)}).status_code == 200


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"a": 1e5000}', {"a": None}),
        ('{"a": 1%s.5}' % ("0" * 400), {"a": None}),
        ('{{"a": {}1{}}}'.format("[" * 3000, "]" * 3000), None),
    ],
    ids=["many digits", "no float", "deep"],
)
def test_data_that_no_client_could_read_keeps_nothing_from_being_seen_or_called(harbour, owner, written, read):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE campaign_contacts SET custom_data = %s", [written])

    assert owner.get(GET, {"batch_id": str(batch.pk)}).json()["contacts"][0]["custom_data"] == read
    assert claim_next_contact(batch) is not None


def test_more_parameters_than_anybody_needs_are_refused(harbour, owner):
    response = owner.generic("GET", LIST, QUERY_STRING="&" * 1001)

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("path", ["list", "get"])
def test_what_the_database_refuses_is_told(harbour, owner, monkeypatch, path):
    def fails(self, queryset, request, view=None):
        raise OperationalError

    monkeypatch.setattr(ClampedPagination, "paginate_queryset", fails)

    response = owner.get(f"{FUNCTIONS}{path}", {"batch_id": str(harbour.batch().pk)})

    assert (response.status_code, response.json()) == (500, {"error": "Failed to read batches", "code": "read_failed"})


@pytest.mark.parametrize("path", ["list", "get"])
def test_they_are_read_with_get_and_head_alone(harbour, owner, path):
    refused = owner.post(f"{FUNCTIONS}{path}")
    head = owner.head(f"{FUNCTIONS}{path}", {"batch_id": str(harbour.batch().pk)})

    assert (refused.status_code, refused["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (head.status_code, head.content) == (200, b"")


def test_what_a_client_cannot_know_is_ignored(harbour, listed):
    batch = harbour.batch()

    assert listed(format="xml", agency_id=str(uuid.uuid4()), order="asc") == [batch.pk]


def test_everybody_of_the_agency_may_read(harbour):
    batch = harbour.batch(queued=1)

    for user in harbour.users.values():
        client = client_of(user)
        assert client.get(LIST).status_code == 200
        assert client.get(GET, {"batch_id": str(batch.pk)}).status_code == 200
