"""Idempotency-Key: whoever asks again because an answer was lost calls nobody twice."""

import json

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet

from calls.models import CallBatch, CampaignContact, IdempotencyKey
from calls.statuses import BatchStatus
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import FUNCTIONS, PHONE, call, client_of

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


@pytest.fixture
def create(owner):
    """Ask for a batch under a key: the status of the answer and its JSON."""

    def create(body, key=KEY):
        response = call(owner, "create", body, **{"Idempotency-Key": key})
        return response.status_code, response.json()

    return create


@pytest.mark.django_db
class TestOneAfterAnother:
    def test_the_same_request_again_gets_the_first_answer_to_the_letter_and_makes_no_second_batch(self, harbour, owner):
        answers = [
            call(owner, "create", harbour.wanted(PHONE, PHONE), **{"Idempotency-Key": KEY}).content for _ in range(3)
        ]

        assert len(set(answers)) == 1
        assert CallBatch.objects.count() == CampaignContact.objects.count() == 1

    def test_the_first_answer_stays_whatever_has_become_of_the_batch(self, harbour, create):
        first = create(harbour.wanted())
        CallBatch.objects.update(status=BatchStatus.PROCESSING)
        harbour.campaign.name = "Renamed"
        harbour.campaign.save()

        assert create(harbour.wanted()) == first

    def test_it_stays_also_when_its_time_has_come_meanwhile(self, harbour, create, monkeypatch):
        body = harbour.wanted(scheduled_for="2099-01-01T00:00:00Z")
        first = create(body)

        monkeypatch.setattr("calls.inputs._is_ahead", lambda time: False)

        assert create(body) == first

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
    def test_another_body_under_the_same_key_is_refused(self, harbour, create, change):
        create(harbour.wanted())

        status, answer = create(harbour.wanted(**change))

        assert (status, answer["code"]) == (422, "idempotency_key_reused")
        assert CallBatch.objects.count() == CampaignContact.objects.count() == 1

    def test_the_order_of_keys_and_blanks_make_no_other_body(self, harbour, create, owner):
        first = create(harbour.wanted())
        body = json.dumps(dict(reversed(harbour.wanted().items())), indent=4)

        again = owner.generic("POST", f"{FUNCTIONS}create", body, headers={"Idempotency-Key": KEY})

        assert (again.status_code, again.json()) == first

    def test_whatever_can_be_created_can_be_created_under_a_key(self, harbour, create):
        data = {"n": 10**400, "f": 1.5e22, "t": "\U0001f469", "l": [None, True, {"deep": [[]]}]}
        body = harbour.wanted(contacts=[{"phone_number": PHONE, "custom_data": data}])

        assert create(body)[0] == 201
        assert create(body)[0] == 201
        assert CampaignContact.objects.get().custom_data == data

    def test_another_key_or_none_makes_another_batch(self, harbour, create, owner):
        create(harbour.wanted())
        create(harbour.wanted(), "another")
        call(owner, "create", harbour.wanted())
        call(owner, "create", harbour.wanted())

        assert CallBatch.objects.count() == 4

    def test_agencies_do_not_share_their_keys(self, harbour, bluebell, create):
        create(harbour.wanted())

        response = call(client_of(bluebell.owner), "create", bluebell.wanted(), **{"Idempotency-Key": KEY})

        assert response.status_code == 201
        assert CallBatch.objects.count() == 2

    def test_what_was_refused_leaves_the_key_free(self, harbour, create):
        assert create(harbour.wanted("nonsense"))[0] == 400
        assert create(harbour.wanted(campaign_id=str(harbour.agency.pk)))[0] == 404

        assert create(harbour.wanted())[0] == 201
        assert IdempotencyKey.objects.count() == 1

    @pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "schl\u00fcssel"])
    def test_what_is_no_key_is_refused(self, harbour, create, key):
        status, answer = create(harbour.wanted(), key)

        assert (status, answer["code"]) == (400, "idempotency_key_invalid")
        assert not CallBatch.objects.exists()

    def test_the_key_and_the_batch_are_stored_together_or_not_at_all(self, harbour, create, monkeypatch):
        save = IdempotencyKey.save

        def fails_with_an_answer(self, **options):
            if self.answer:
                raise OperationalError
            save(self, **options)

        monkeypatch.setattr(IdempotencyKey, "save", fails_with_an_answer)

        assert create(harbour.wanted())[1]["code"] == "create_failed"
        assert not IdempotencyKey.objects.exists()
        assert not CallBatch.objects.exists()


# Two at the same moment

AT_ONCE = pytest.mark.django_db(transaction=True)


def two_at_once(harbour):
    """The second asks while the first has stored its batch and not yet committed; both answers."""

    def ask():
        return call(client_of(harbour.owner), "create", harbour.wanted(), **{"Idempotency-Key": KEY})

    with PausedThread(ask, after='INSERT INTO "call_batches"') as first:
        second = PausedThread(ask)
        second.start()
        assert wait_for_lock_waiter()
        return first.release(), second.release()


@AT_ONCE
def test_of_two_at_the_same_moment_one_makes_the_batch_and_both_get_its_answer(harbour):
    first, second = two_at_once(harbour)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert CallBatch.objects.count() == CampaignContact.objects.count() == 1


@AT_ONCE
def test_control_a_key_that_is_only_looked_for_makes_two_batches(harbour, monkeypatch):
    def look_then_create(self, defaults=None, **key):
        found = self.filter(**key).first()
        return (found, False) if found else (self.model(**key, **defaults), True)

    monkeypatch.setattr(QuerySet, "get_or_create", look_then_create)
    monkeypatch.setattr(IdempotencyKey, "save", lambda self, **options: None)

    def ask():
        return call(client_of(harbour.owner), "create", harbour.wanted(), **{"Idempotency-Key": KEY})

    with PausedThread(ask, after='INSERT INTO "call_batches"') as first:
        second = PausedThread(ask)
        second.start()
        second.release()
    first.release()

    assert CallBatch.objects.count() == 2


@AT_ONCE
def test_when_the_first_fails_the_one_that_waits_makes_the_batch(harbour):
    with transaction.atomic():
        IdempotencyKey.objects.create(agency=harbour.agency, key=KEY, fingerprint="of one that will not commit")
        second = PausedThread(
            lambda: call(client_of(harbour.owner), "create", harbour.wanted(), **{"Idempotency-Key": KEY})
        )
        second.start()
        assert wait_for_lock_waiter()
        transaction.set_rollback(True)

    assert second.release().status_code == 201
    assert CallBatch.objects.count() == 1


@AT_ONCE
def test_a_client_that_hangs_up_after_the_commit_and_asks_again_calls_nobody_twice(harbour):
    def lost():
        call(client_of(harbour.owner), "create", harbour.wanted(), **{"Idempotency-Key": KEY})
        connection.close()
        raise ConnectionResetError

    PausedThread(lost).run()

    again = call(client_of(harbour.owner), "create", harbour.wanted(), **{"Idempotency-Key": KEY})

    assert again.status_code == 201
    assert CallBatch.objects.count() == CampaignContact.objects.count() == 1
