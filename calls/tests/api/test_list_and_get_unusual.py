"""GET /functions/v1/calls-batch-list and calls-batch-get: unusual stored values, refused requests, and errors."""

import pytest
from django.db import OperationalError, connection

from calls.api.pagination import ClampedPagination
from calls.dialler.claims import claim_next_contact
from calls.dialler.starting import start_batch
from calls.models import CallBatch
from calls.tests.support.factories import FUNCTIONS, call, client_of

pytestmark = pytest.mark.django_db

LIST, GET = f"{FUNCTIONS}list", f"{FUNCTIONS}get"


def test_a_batch_whose_campaign_was_deleted_and_whose_counters_are_null_is_listed(harbour, owner):
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
def test_a_batch_with_times_that_python_cannot_represent_can_be_read_dialled_paused_and_cancelled(
    harbour, owner, moment
):
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
    # The start mends what would keep the contact from being claimed.
    CallBatch.objects.update(scheduled_for=None)
    start_batch(batch)
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
def test_a_contact_with_custom_data_that_clients_cannot_parse_can_be_read_and_claimed(harbour, owner, written, read):
    batch = harbour.batch(queued=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE campaign_contacts SET custom_data = %s", [written])

    assert owner.get(GET, {"batch_id": str(batch.pk)}).json()["contacts"][0]["custom_data"] == read
    assert claim_next_contact(batch) is not None


def test_more_than_1000_query_parameters_are_refused(harbour, owner):
    response = owner.generic("GET", LIST, QUERY_STRING="&" * 1001)

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("path", ["list", "get"])
def test_a_database_error_is_answered_with_read_failed(harbour, owner, monkeypatch, path):
    def fails(self, queryset, request, view=None):
        raise OperationalError

    monkeypatch.setattr(ClampedPagination, "paginate_queryset", fails)

    response = owner.get(f"{FUNCTIONS}{path}", {"batch_id": str(harbour.batch().pk)})

    assert (response.status_code, response.json()) == (500, {"error": "Failed to read batches", "code": "read_failed"})


@pytest.mark.parametrize("path", ["list", "get"])
def test_only_get_and_head_are_allowed(harbour, owner, path):
    refused = owner.post(f"{FUNCTIONS}{path}")
    head = owner.head(f"{FUNCTIONS}{path}", {"batch_id": str(harbour.batch().pk)})

    assert (refused.status_code, refused["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (head.status_code, head.content) == (200, b"")


def test_every_user_of_the_agency_may_read(harbour):
    batch = harbour.batch(queued=1)

    for user in harbour.users.values():
        client = client_of(user)
        assert client.get(LIST).status_code == 200
        assert client.get(GET, {"batch_id": str(batch.pk)}).status_code == 200
