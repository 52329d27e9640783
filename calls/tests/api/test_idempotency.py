"""Idempotency-Key: a client that repeats a create because the answer was lost creates one batch."""

import json

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet

from calls.models import CallBatch, CampaignContact, IdempotencyKey
from calls.statuses import BatchStatus
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import FUNCTIONS, PHONE, call, client_of

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"

# A request with every field, and its fingerprint as an earlier version has stored it.
EARLIER_BODY = {
    "agent_mapping_id": "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10",
    "campaign_id": "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e11",
    "from_number": "+12125550199",
    "contacts": [
        {
            "phone_number": "+12125550100",
            "first_name": "Amara",
            "last_name": "Okafor",
            "email": "amara@example.com",
            "company": "Okafor Ltd",
            "title": "Dr",
            "timezone": "Europe/London",
            "custom_data": {"policy": "A-17"},
            "max_attempts": 7,
        }
    ],
    "calls_per_minute": 7,
    "max_concurrent": 3,
    "scheduled_for": "2099-01-01T00:00:00Z",
    "mode": "scheduled",
}
EARLIER_FINGERPRINT = "533dfc29d1da862d8e3e12210ad4317640e1ae0670d269a0fa9266e0e76cba15"


@pytest.fixture
def create_with_key(owner):
    """Send calls-batch-create with a key. Returns the status and the JSON of the answer."""

    def create_with_key(body, key=KEY):
        response = call(owner, "create", body, **{"Idempotency-Key": key})
        return response.status_code, response.json()

    return create_with_key


@pytest.mark.django_db
class TestRepeatedRequests:
    def test_a_repeated_request_gets_exactly_the_first_answer_and_creates_no_second_batch(self, harbour, owner):
        answers = [
            call(owner, "create", harbour.create_body(PHONE, PHONE), **{"Idempotency-Key": KEY}).content
            for _ in range(3)
        ]

        assert len(set(answers)) == 1
        assert CallBatch.objects.count() == CampaignContact.objects.count() == 1

    def test_the_answer_stays_the_same_after_the_batch_has_changed(self, harbour, create_with_key):
        first = create_with_key(harbour.create_body())
        CallBatch.objects.update(status=BatchStatus.PROCESSING)
        harbour.campaign.name = "Renamed"
        harbour.campaign.save()

        assert create_with_key(harbour.create_body()) == first

    def test_the_answer_stays_the_same_after_the_scheduled_time_has_passed(self, harbour, create_with_key, monkeypatch):
        body = harbour.create_body(scheduled_for="2099-01-01T00:00:00Z")
        first = create_with_key(body)

        monkeypatch.setattr("calls.inputs._is_in_future", lambda time: False)

        assert create_with_key(body) == first
        another = create_with_key(body, "another")
        assert (first[1]["status"], another[1]["status"]) == (BatchStatus.SCHEDULED, BatchStatus.PENDING)

    @pytest.mark.parametrize(
        "change",
        [
            {"calls_per_minute": 7},
            {"max_concurrent": 7},
            {"scheduled_for": "2099-01-01T00:00:00Z"},
            {"mode": "immediate"},
            {"contacts": [{"phone_number": "+12125550101"}]},
            {"contacts": [{"phone_number": PHONE, "custom_data": {"a": 1}}]},
            {"contacts": [{"phone_number": PHONE}] * 2},
        ],
        ids=str,
    )
    def test_another_body_with_the_same_key_is_refused(self, harbour, create_with_key, change):
        create_with_key(harbour.create_body())

        status, answer = create_with_key(harbour.create_body(**change))

        assert (status, answer["code"]) == (422, "idempotency_key_reused")
        assert CallBatch.objects.count() == CampaignContact.objects.count() == 1

    def test_key_order_and_whitespace_do_not_make_another_body(self, harbour, create_with_key, owner):
        first = create_with_key(harbour.create_body())
        body = json.dumps(dict(reversed(harbour.create_body().items())), indent=4)

        again = owner.generic("POST", f"{FUNCTIONS}create", body, headers={"Idempotency-Key": KEY})

        assert (again.status_code, again.json()) == first

    def test_a_request_that_is_repeated_after_an_upgrade_gets_the_first_answer(self, harbour, create_with_key):
        IdempotencyKey.objects.create(
            agency=harbour.agency, key=KEY, fingerprint=EARLIER_FINGERPRINT, answer='{"batch_id": "the first"}'
        )

        assert create_with_key(EARLIER_BODY) == (201, {"batch_id": "the first"})

    def test_every_valid_body_can_be_sent_with_a_key(self, harbour, create_with_key):
        data = {"n": 10**29, "f": 1.5e22, "t": "\U0001f469", "l": [None, True, {"deep": [[]]}]}
        body = harbour.create_body(contacts=[{"phone_number": PHONE, "custom_data": data}])

        assert create_with_key(body)[0] == 201
        assert create_with_key(body)[0] == 201
        assert CampaignContact.objects.get().custom_data == data

    def test_another_key_or_no_key_creates_another_batch(self, harbour, create_with_key, owner):
        create_with_key(harbour.create_body())
        create_with_key(harbour.create_body(), "another")
        call(owner, "create", harbour.create_body())
        call(owner, "create", harbour.create_body())

        assert CallBatch.objects.count() == 4

    def test_agencies_do_not_share_keys(self, harbour, bluebell, create_with_key):
        create_with_key(harbour.create_body())

        response = call(client_of(bluebell.owner), "create", bluebell.create_body(), **{"Idempotency-Key": KEY})

        assert response.status_code == 201
        assert CallBatch.objects.count() == 2

    def test_a_refused_request_leaves_the_key_unused(self, harbour, create_with_key):
        assert create_with_key(harbour.create_body("nonsense"))[0] == 400
        assert create_with_key(harbour.create_body(campaign_id=str(harbour.agency.pk)))[0] == 404

        assert create_with_key(harbour.create_body())[0] == 201
        assert IdempotencyKey.objects.count() == 1

    @pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "schl\u00fcssel"])
    def test_a_malformed_key_is_refused(self, harbour, create_with_key, key):
        status, answer = create_with_key(harbour.create_body(), key)

        assert (status, answer["code"]) == (400, "idempotency_key_invalid")
        assert not CallBatch.objects.exists()

    def test_the_key_and_the_batch_are_stored_together_or_not_at_all(self, harbour, create_with_key, monkeypatch):
        save = IdempotencyKey.save

        def fail_when_the_answer_is_saved(self, **options):
            if self.answer:
                raise OperationalError
            save(self, **options)

        monkeypatch.setattr(IdempotencyKey, "save", fail_when_the_answer_is_saved)

        assert create_with_key(harbour.create_body())[1]["code"] == "create_failed"
        assert not IdempotencyKey.objects.exists()
        assert not CallBatch.objects.exists()


SIMULTANEOUS = pytest.mark.django_db(transaction=True)


def send_two_simultaneously(harbour):
    """Send the second request while the first has stored its batch but not committed. Return both answers."""

    def send():
        return call(client_of(harbour.owner), "create", harbour.create_body(), **{"Idempotency-Key": KEY})

    with PausedThread(send, after='INSERT INTO "call_batches"') as first:
        second = PausedThread(send)
        second.start()
        assert wait_for_lock_waiter()
        return first.release(), second.release()


@SIMULTANEOUS
def test_two_simultaneous_requests_create_one_batch_and_get_the_same_answer(harbour):
    first, second = send_two_simultaneously(harbour)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert CallBatch.objects.count() == CampaignContact.objects.count() == 1


@SIMULTANEOUS
def test_control_looking_up_the_key_without_inserting_it_creates_two_batches(harbour, monkeypatch):
    def look_then_create(self, defaults=None, **key):
        found = self.filter(**key).first()
        return (found, False) if found else (self.model(**key, **defaults), True)

    monkeypatch.setattr(QuerySet, "get_or_create", look_then_create)
    monkeypatch.setattr(IdempotencyKey, "save", lambda self, **options: None)

    def send():
        return call(client_of(harbour.owner), "create", harbour.create_body(), **{"Idempotency-Key": KEY})

    with PausedThread(send, after='INSERT INTO "call_batches"') as first:
        second = PausedThread(send)
        second.start()
        second.release()
    first.release()

    assert CallBatch.objects.count() == 2


@SIMULTANEOUS
def test_when_the_first_request_fails_the_waiting_request_creates_the_batch(harbour):
    with transaction.atomic():
        IdempotencyKey.objects.create(agency=harbour.agency, key=KEY, fingerprint="of a request that will not commit")
        second = PausedThread(
            lambda: call(client_of(harbour.owner), "create", harbour.create_body(), **{"Idempotency-Key": KEY})
        )
        second.start()
        assert wait_for_lock_waiter()
        transaction.set_rollback(True)

    assert second.release().status_code == 201
    assert CallBatch.objects.count() == 1


@SIMULTANEOUS
def test_a_client_that_disconnects_after_the_commit_and_repeats_the_request_creates_one_batch(harbour):
    def send_and_disconnect():
        call(client_of(harbour.owner), "create", harbour.create_body(), **{"Idempotency-Key": KEY})
        connection.close()
        raise ConnectionResetError

    PausedThread(send_and_disconnect).run()

    again = call(client_of(harbour.owner), "create", harbour.create_body(), **{"Idempotency-Key": KEY})

    assert again.status_code == 201
    assert CallBatch.objects.count() == CampaignContact.objects.count() == 1
