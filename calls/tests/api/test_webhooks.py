"""What the provider says of calls: whoever says it, in whatever order, however often."""

import hashlib
import hmac
import itertools
import json
import logging
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from calls.dialler.claims import claim_next_contact
from calls.dialler.sweep import SweepResult, run_sweep
from calls.models import Call, CallBatch, CampaignContact, WebhookEvent
from calls.models import call as call_module
from calls.redaction import WithoutSecrets
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import batch_snapshot, call, cancel, checked_counters, pause, plain_connection
from calls.tests.support.server import database_url, gunicorn, request

pytestmark = pytest.mark.django_db

CREATED = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
JOINED, ENDED = CREATED + timedelta(seconds=10), CREATED + timedelta(seconds=55)
SECRET = "the-secret-of-the-address"
ID = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"
REASONS = ["hangup", "agent_hangup", "timeout", "unjoined", "connection_error", "system_error"]
EVENTS = ["call.started", "call.joined", "call.ended", "call.billed"]


def snapshot(call_id, event="call.ended", reason="hangup", *, joined=True):
    """The call as the provider has it when it sends that event."""
    over = event in ("call.ended", "call.billed")
    return {
        "callId": call_id,
        "created": CREATED.isoformat(),
        "joined": JOINED.isoformat() if joined and event != "call.started" else None,
        "ended": ENDED.isoformat() if over else None,
        "endReason": reason if over else None,
        "shortSummary": "They talked." if over and joined else None,
    }


def says(event, of_call):
    return json.dumps({"event": event, "call": of_call})


@pytest.fixture
def deliver(harbour):
    """Deliver a body to an agency's address; the answer."""

    def deliver(body, *, agency=harbour.agency, secret=None, **headers):
        agency.webhook_secret = SECRET
        agency.save()
        address = f"/functions/v1/webhook-ingest/{agency.pk}/{SECRET if secret is None else secret}"
        return APIClient(raise_request_exception=False).generic("POST", address, body, headers=headers)

    return deliver


@pytest.fixture
def placed(harbour):
    """A batch of two with a call of the provider's under way, whose id is ``the-call``."""
    batch = harbour.batch(queued=2)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "the-call", caller_id="+12125550199")
    contact.refresh_from_db()
    return contact


# What an end means


@pytest.mark.parametrize("reason", ["hangup", "agent_hangup", "timeout"])
def test_a_call_that_was_joined_is_completed_and_lasted_from_then_on(deliver, placed, reason):
    assert deliver(says("call.ended", snapshot("the-call", reason=reason))).json() == {"success": True}

    placed.refresh_from_db()
    assert (placed.status, placed.outcome, placed.duration_seconds) == (ContactStatus.COMPLETED, "answered", 45)
    recorded = Call.objects.get()
    assert (recorded.joined_at, recorded.ended_at, recorded.duration_seconds) == (JOINED, ENDED, 45)
    assert (recorded.status, recorded.end_reason, recorded.short_summary) == ("ended", reason, "They talked.")
    assert checked_counters(placed.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


@pytest.mark.parametrize(
    ("reason", "joined", "outcome"),
    [
        ("unjoined", False, "no_answer"),
        ("hangup", False, "no_answer"),
        ("connection_error", True, "failed"),
        ("system_error", False, "failed"),
    ],
)
@pytest.mark.parametrize(
    ("attempts", "ended", "status"),
    [
        (3, None, ContactStatus.QUEUED),
        (1, None, ContactStatus.FAILED),
        (3, BatchStatus.CANCELLED, ContactStatus.FAILED),
        (3, BatchStatus.COMPLETED, ContactStatus.FAILED),
        (3, BatchStatus.PAUSED, ContactStatus.QUEUED),
    ],
    ids=["attempts left", "none left", "cancelled", "completed", "paused"],
)
def test_no_answer_and_failures_are_tried_again_while_attempts_are_left_and_the_batch_is_live(
    deliver, placed, reason, joined, outcome, attempts, ended, status
):
    placed.max_attempts = attempts
    placed.save()
    if ended == BatchStatus.CANCELLED:
        cancel(placed.batch)
    elif ended == BatchStatus.PAUSED:
        pause(placed.batch)
    elif ended:
        placed.batch.contacts.filter(status=ContactStatus.QUEUED).delete()
        CallBatch.objects.update(status=ended, completed_at=CREATED, queued=0, total_contacts=1)
    before = CallBatch.objects.get()

    deliver(says("call.ended", snapshot("the-call", reason=reason, joined=joined)))

    placed.refresh_from_db()
    assert (placed.status, placed.outcome) == (status, outcome)
    batch = CallBatch.objects.get()
    assert (batch.status, batch.completed_at) == (before.status, before.completed_at)
    checked_counters(batch)


def test_a_call_that_was_joined_by_an_earlier_event_was_answered(deliver, placed):
    deliver(says("call.joined", {"callId": "the-call", "joined": JOINED.isoformat()}))
    deliver(says("call.ended", {"callId": "the-call", "ended": ENDED.isoformat(), "endReason": "hangup"}))

    placed.refresh_from_db()
    assert (placed.outcome, placed.duration_seconds) == ("answered", 45)


def test_events_before_the_end_end_nothing(deliver, placed):
    for event in ("call.started", "call.joined"):
        deliver(says(event, snapshot("the-call", event)))

    placed.refresh_from_db()
    assert placed.status == ContactStatus.IN_PROGRESS
    assert (Call.objects.get().status, Call.objects.get().joined_at) == ("joined", JOINED)


def test_a_late_end_does_not_end_the_next_attempt(deliver, placed):
    placed.record_failed(outcome="no_answer")
    again = claim_next_contact(placed.batch)
    assert again.pk == placed.pk
    Call.record_placed(again, "the-next-call", caller_id="+12125550199")

    deliver(says("call.ended", snapshot("the-call")))

    again.refresh_from_db()
    assert again.status == ContactStatus.IN_PROGRESS
    assert Call.objects.get(ultravox_call_id="the-call").end_reason == "hangup"


@pytest.mark.parametrize("event", ["call.ended", "call.billed"])
def test_nor_one_that_another_service_has_begun_and_that_still_names_the_call_before(deliver, placed, event):
    deliver(says("call.ended", snapshot("the-call", reason="unjoined", joined=False)))
    CampaignContact.objects.filter(pk=placed.pk).update(status=ContactStatus.IN_PROGRESS, attempts=2)

    deliver(says(event, snapshot("the-call", event, "unjoined", joined=False)))

    placed.refresh_from_db()
    assert (placed.status, placed.attempts) == (ContactStatus.IN_PROGRESS, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("without", ["UPDATE campaign_contacts SET batch_id = NULL", "DELETE FROM call_batches"])
def test_the_end_of_a_call_whose_contact_has_no_batch_is_stored_and_changes_nobody(deliver, placed, without):
    Call.objects.update(batch=None)
    with plain_connection() as plain:
        plain.execute("SET session_replication_role = replica")
        plain.execute(without)

    assert deliver(says("call.ended", snapshot("the-call"))).status_code == 200

    placed.refresh_from_db()
    assert placed.status == ContactStatus.IN_PROGRESS
    assert Call.objects.get().end_reason == "hangup"


def test_a_call_that_cannot_be_described_as_it_was_has_ended_all_the_same(deliver, placed, caplog):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE calls ADD CONSTRAINT short CHECK (length(end_reason) < 6)")

    assert deliver(says("call.ended", snapshot("the-call"))).status_code == 200

    placed.refresh_from_db()
    assert (placed.status, placed.outcome) == (ContactStatus.COMPLETED, "answered")
    assert "the table calls rejects a value of its events: IntegrityError" in caplog.text


# In whatever order


def test_an_end_that_comes_before_the_answer_to_the_request_has_its_effect_when_that_comes(harbour, deliver):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    assert deliver(says("call.ended", snapshot("the-call"))).status_code == 200

    Call.record_placed(contact, "the-call", caller_id="+12125550199")

    contact.refresh_from_db()
    assert (contact.status, contact.duration_seconds) == (ContactStatus.COMPLETED, 45)


@pytest.mark.parametrize(
    "order", list(itertools.permutations(EVENTS)), ids=lambda order: " ".join(o[5:] for o in order)
)
def test_in_whatever_order_the_events_come_the_end_is_the_same(deliver, placed, order):
    for event in order:
        deliver(says(event, snapshot("the-call", event)))

    placed.refresh_from_db()
    assert (placed.status, placed.outcome, placed.duration_seconds) == (ContactStatus.COMPLETED, "answered", 45)
    assert checked_counters(placed.batch) == {"total_contacts": 2, "queued": 1, "completed": 1}


def test_an_event_that_is_delivered_again_has_no_effect(deliver, placed):
    body = says("call.ended", snapshot("the-call", reason="unjoined", joined=False))
    deliver(body)
    before = batch_snapshot(placed.batch)

    assert deliver(body).status_code == 200
    assert batch_snapshot(placed.batch) == before
    assert WebhookEvent.objects.count() == 1


LIVES = st.lists(
    st.tuples(st.sampled_from(REASONS), st.booleans(), st.integers(1, 3)),
    min_size=1,
    max_size=4,
    unique_by=lambda life: life,
)


@pytest.mark.django_db(transaction=True)
@hypothesis_settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(lives=LIVES, data=st.data())
def test_the_events_of_many_calls_shuffled_and_repeated_always_end_in_the_same_state(harbour, deliver, lives, data):
    events = [
        says(event, snapshot(f"call-{number}", event, reason, joined=joined and reason != "unjoined"))
        for number, (reason, joined, _) in enumerate(lives)
        for event in EVENTS
        if event != "call.joined" or (joined and reason != "unjoined")
    ]
    shuffled = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=6))))
    recorded_after = data.draw(st.integers(0, len(shuffled)))
    cancelled_after = data.draw(st.none() | st.integers(0, len(shuffled)))

    def end_of(order, record_after, cancel_after):
        WebhookEvent.objects.all().delete()
        Call.objects.all().delete()
        batch = harbour.batch(queued=len(lives) + 1)
        for contact, (_, _, attempts) in zip(batch.contacts.oldest_first(), lives, strict=False):
            CampaignContact.objects.filter(pk=contact.pk).update(max_attempts=attempts)
        claimed = [claim_next_contact(batch) for _ in lives]
        if cancel_after is not None:
            # Before all of them: what comes earlier may be tried again, and is then skipped.
            cancel(batch)
        for index, event in enumerate([*order, None]):
            if index == record_after:
                for number, contact in enumerate(claimed):
                    Call.record_placed(contact, f"call-{number}", caller_id="+12125550199")
            if event is not None:
                assert deliver(event).status_code == 200
        batch.refresh_from_db()
        return (
            batch.status,
            checked_counters(batch),
            [
                CampaignContact.objects.values_list("status", "outcome", "duration_seconds", "attempts").get(
                    pk=contact.pk
                )
                for contact in claimed
            ],
            sorted(Call.objects.values_list("ultravox_call_id", "status", "end_reason", "duration_seconds")),
        )

    assert end_of(shuffled, recorded_after, cancelled_after) == end_of(events, 0, cancelled_after)


@pytest.mark.django_db(transaction=True)
def test_the_same_event_twice_at_the_same_moment_counts_once(harbour, placed, deliver):
    body = says("call.ended", snapshot("the-call", reason="unjoined", joined=False))
    harbour.agency.webhook_secret = SECRET
    harbour.agency.save()
    both = [PausedThread(lambda: deliver(body).status_code) for _ in range(2)]
    for each in both:
        each.start()

    assert [each.release() for each in both] == [200, 200]
    assert WebhookEvent.objects.count() == 1
    assert checked_counters(placed.batch) == {"total_contacts": 2, "queued": 2}


@pytest.mark.django_db(transaction=True)
def test_an_end_that_is_heard_while_the_call_is_being_recorded_is_not_lost(harbour, deliver):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    hearing = PausedThread(lambda: deliver(says("call.ended", snapshot("the-call"))).status_code, after="pg_advisory")
    with hearing:
        recording = PausedThread(lambda: Call.record_placed(contact, "the-call", caller_id="+12125550199"))
        recording.start()
        waited = wait_for_lock_waiter()
    recording.release()

    assert (hearing.outcome, waited) == (200, True)
    contact.refresh_from_db()
    assert contact.status == ContactStatus.COMPLETED


@pytest.mark.django_db(transaction=True)
def test_control_without_its_lock_it_is(harbour, deliver, monkeypatch):
    monkeypatch.setattr(call_module, "lock_call", lambda call_id: None)
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    with PausedThread(lambda: deliver(says("call.ended", snapshot("the-call"))), after='SELECT "calls"."id"'):
        Call.record_placed(contact, "the-call", caller_id="+12125550199")

    contact.refresh_from_db()
    assert contact.status == ContactStatus.IN_PROGRESS


# Who may say it


def test_a_wrong_secret_and_an_unknown_agency_are_answered_alike(harbour, bluebell, deliver, placed):
    stranger = type(harbour.agency)(pk=uuid.uuid4())
    answers = [
        deliver(says("call.ended", snapshot("the-call")), secret="wrong"),
        APIClient().post(f"/functions/v1/webhook-ingest/{stranger.pk}/{SECRET}"),
        APIClient().post(f"/functions/v1/webhook-ingest/nobody/{SECRET}"),
        APIClient().post(f"/functions/v1/webhook-ingest/{bluebell.agency.pk}/{SECRET}"),
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert not WebhookEvent.objects.exists()


def test_an_agency_without_a_secret_hears_nothing(harbour):
    harbour.agency.webhook_secret = ""
    harbour.agency.save()

    for secret in ("", "%20", "None"):
        address = f"/functions/v1/webhook-ingest/{harbour.agency.pk}/{secret}"
        assert APIClient().post(address).status_code in (401, 404)


def test_an_agency_cannot_speak_of_anothers_call(bluebell, deliver, placed):
    assert deliver(says("call.ended", snapshot("the-call")), agency=bluebell.agency).status_code == 200

    placed.refresh_from_db()
    assert placed.status == ContactStatus.IN_PROGRESS
    assert Call.objects.get().ended_at is None


KEY = "a-signing-secret"


def signed(body, *, at=None, key=KEY, others=()):
    at = (at or datetime.now(UTC)).isoformat()
    signature = hmac.new(key.encode(), body.encode() + at.encode(), hashlib.sha256).hexdigest()
    return {
        "X-Ultravox-Webhook-Timestamp": at,
        "X-Ultravox-Webhook-Signature": ", ".join([*others, signature]),
    }


@pytest.mark.parametrize(
    ("sign", "status"),
    [
        (lambda body: signed(body), 200),
        (lambda body: signed(body, others=["0" * 64, "", "ä"]), 200),
        (lambda body: signed(body, at=datetime.now(UTC) - timedelta(seconds=55)), 200),
        (lambda body: signed(body, at=datetime.now(UTC) - timedelta(seconds=61)), 401),
        (lambda body: signed(body, at=datetime.now(UTC) + timedelta(seconds=90)), 401),
        (lambda body: signed(body, key="another"), 401),
        (lambda body: signed(body + " "), 401),
        (lambda body: signed(body) | {"X-Ultravox-Webhook-Timestamp": "now"}, 401),
        (lambda body: {"X-Ultravox-Webhook-Signature": signed(body)["X-Ultravox-Webhook-Signature"]}, 401),
        (lambda body: {}, 401),
    ],
    ids=[
        "right",
        "one of several",
        "just in time",
        "old",
        "to come",
        "other key",
        "other body",
        "no time",
        "half",
        "none",
    ],
)
def test_with_a_signing_secret_each_delivery_is_signed_and_fresh(harbour, deliver, placed, sign, status):
    harbour.agency.webhook_signing_secret = KEY
    body = says("call.ended", snapshot("the-call"))

    assert deliver(body, **sign(body)).status_code == status
    assert WebhookEvent.objects.exists() is (status == 200)


def test_a_delivery_that_is_repeated_later_is_signed_anew_and_taken(harbour, deliver, placed):
    harbour.agency.webhook_signing_secret = KEY
    body = says("call.ended", snapshot("the-call"))
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    assert deliver(body, **signed(body, at=long_ago)).status_code == 401

    assert deliver(body, **signed(body)).status_code == 200
    placed.refresh_from_db()
    assert placed.status == ContactStatus.COMPLETED


# What else may come


@pytest.mark.parametrize(
    "body",
    [
        says("call.ended", snapshot("a-call-of-nobody")),
        says("call.transferred", snapshot("the-call", "call.transferred")),
        '{"event": "call.ended"}',
        '{"event": "call.ended", "call": 7}',
        '{"event": "call.ended", "call": {"callId": null}}',
        '{"event": "call.ended", "call": {"callId": "%s"}}' % ("x" * 5000),
        '{"event": "call.ended", "call": {"callId": "\\u0000\\ud800", "ended": "\\u0000"}}',
        '{"event": "\\u0000\\ud800x"}',
        '{"event": "ping", "n": 1e5000}',
        '{"event": "ping", "n": %s}' % ("9" * 5000),
        '\ufeff{"event": "ping"}',
    ],
)
def test_what_means_nothing_to_us_is_stored_and_answered_200(deliver, placed, body):
    before = batch_snapshot(placed.batch)

    assert deliver(body).json() == {"success": True}
    assert deliver(body).status_code == 200
    assert WebhookEvent.objects.count() == 1
    assert batch_snapshot(placed.batch) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": "soon", "joined": 7},
        {"ended": None},
        {"ended": "9999-12-31T23:59:59-23:00"},
        {"joined": "0001-01-01T00:00:00+14:00"},
        {"endReason": ["x"], "shortSummary": "\0\ud800"},
        {"joined": ENDED.isoformat(), "ended": JOINED.isoformat()},
        {"created": {}, "endReason": "a reason of next year"},
    ],
)
def test_an_end_whose_details_make_no_sense_is_an_end_all_the_same(deliver, placed, changes):
    assert deliver(says("call.ended", snapshot("the-call") | changes)).status_code == 200

    placed.refresh_from_db()
    assert placed.status != ContactStatus.IN_PROGRESS
    checked_counters(placed.batch)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "body_invalid"),
        ("[]", "body_invalid"),
        ("{", "body_invalid"),
        (b"\xff", "body_invalid"),
        ("[" * 100_000, "body_invalid"),
        ("{}", "event_required"),
        ('{"event": null}', "event_required"),
        ('{"event": 7}', "event_required"),
    ],
)
def test_what_is_no_event_is_refused_and_not_stored(deliver, placed, body, code):
    answer = deliver(body)

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not WebhookEvent.objects.exists()


@pytest.mark.parametrize(("size", "status"), [(1024 * 1024, 200), (1024 * 1024 + 1, 413)])
def test_a_body_may_have_1_mb(deliver, placed, size, status):
    body = '{"event": "ping", "padding": "%s"}'

    assert deliver(body % ("x" * (size - len(body) + 2))).status_code == status


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("PUT", 405), ("OPTIONS", 204)])
def test_only_a_post_delivers(harbour, method, status):
    answer = APIClient().generic(method, f"/functions/v1/webhook-ingest/{harbour.agency.pk}/{SECRET}")

    assert (answer.status_code, answer["Allow"]) == (status, "POST, OPTIONS")


def test_a_secret_may_have_a_slash_in_it_and_the_address_none_at_its_end(harbour):
    harbour.agency.webhook_secret = "a/b+c="
    harbour.agency.save()
    address = f"/functions/v1/webhook-ingest/{harbour.agency.pk}/a/b+c="

    assert APIClient().generic("POST", address, '{"event": "ping"}').status_code == 200
    assert APIClient().generic("POST", f"{address}/", '{"event": "ping"}').status_code == 404


# When the batch cannot be had


@pytest.mark.django_db(transaction=True)
def test_while_somebody_else_has_the_batch_nothing_is_stored_and_it_is_to_be_delivered_again(
    deliver, placed, monkeypatch
):
    monkeypatch.setattr("calls.database.transactions.LOCK_TIMEOUT", 0.2)
    monkeypatch.setattr("calls.database.transactions.set_timeouts.__kwdefaults__", {"lock": 0.2, "statement": 5.0})
    body = says("call.ended", snapshot("the-call"))
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM call_batches FOR UPDATE")
        answer = deliver(body)

    assert (answer.status_code, answer["Retry-After"], answer.json()["code"]) == (503, "5", "not_stored")
    assert not WebhookEvent.objects.exists()
    assert deliver(body).status_code == 200
    placed.refresh_from_db()
    assert placed.status == ContactStatus.COMPLETED


def test_the_secret_of_the_address_reaches_no_log(harbour, capfd):
    secret = """a secret's "odd" characters"""
    secrets = quote(secret), quote(f"{secret}-and-more"), f"{quote(secret)}/"
    with gunicorn(database_url(), GUNICORN_CMD_ARGS="--access-logfile=-") as server:
        for name in ("webhook-ingest", "%77ebhook%2Dingest"):
            for address in (f"/functions/v1/{name}/{harbour.agency.pk}/{each}" for each in secrets):
                request(server, "POST", address, "{")
                request(server, "GET", address)

    logged = "".join(capfd.readouterr())
    # The server's line for each request, and ours for each refusal.
    assert logged.count(" HTTP/1.1") == 12
    assert logged.count("/webhook-ingest/") >= 12
    assert "odd" not in logged
    assert "character" not in logged


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        (f'Not Found: /webhook-ingest/{ID}/it\'s "1" %s', f"Not Found: /webhook-ingest/{ID}/***"),
        (f'"GET /webhook-ingest/{ID}/1?x HTTP/1.1" 200', f'"GET /webhook-ingest/{ID}/*** HTTP/1.1" 200'),
        (f'"GET /webhook%2Dingest/{ID}/1 HTTP/1.1" 200', '"GET *** HTTP/1.1" 200'),
        (f'"GET /webhook-ingest/{ID}/%0a1 HTTP/1.1" 200', f'"GET /webhook-ingest/{ID}/*** HTTP/1.1" 200'),
        (f'"GET /webhook-ingest/%20{ID}/1 HTTP/1.1" 200', '"GET /webhook-ingest/*** HTTP/1.1" 200'),
        (f"Unauthorized: /webhook-ingest/{ID} /1", "Unauthorized: /webhook-ingest/***"),
        ("Not Found: /webhook-ingest/1", "Not Found: /webhook-ingest/***"),
        ("Invalid HTTP Header: 'Authorization Bearer e30.e30.x'", "Invalid HTTP Header: 'Authorization Bearer ***'"),
        ("100 % of all", "100 % of all"),
    ],
)
def test_a_log_is_left_alone_but_for_a_secret(said, logged):
    record = logging.makeLogRecord({"msg": said})

    assert WithoutSecrets().filter(record)
    assert record.getMessage() == logged


# The dialler by HTTP

PROCESS = "process"


@pytest.mark.parametrize("configured", ["", "the-cron-secret"])
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Basic the-cron-secret", 401),
        ("Bearer the-cron-secret the-cron-secret", 401),
        ("Bearer the-cron-secret", 200),
        ("bearer   the-cron-secret", 200),
    ],
)
def test_a_pass_by_http_needs_the_cron_secret_and_is_off_without_one(settings, configured, header, status):
    settings.CRON_SECRET = configured
    headers = {} if header is None else {"Authorization": header}

    answer = call(APIClient(), PROCESS, **headers)

    assert answer.status_code == (status if configured else 404)
    if status == 200 and configured:
        assert answer.json() == {"batches_processed": 0, "calls_initiated": 0, "calls_failed": 0}


@pytest.mark.django_db(transaction=True)
def test_a_pass_by_http_and_by_command_dials_what_is_due(harbour, ultravox, settings, run_command):
    settings.CRON_SECRET = "the-cron-secret"
    harbour.batch(BatchStatus.PENDING, pending=3)
    done = {"batches_processed": 1, "calls_initiated": 3, "calls_failed": 0}

    assert call(APIClient(), PROCESS, Authorization="Bearer the-cron-secret").json() == done
    harbour.batch(BatchStatus.PENDING, pending=3)
    status, (line,) = run_command("process_batches")
    assert (status, json.loads(line)) == (0, done | {"batches_processed": 2})


@pytest.mark.django_db(transaction=True)
def test_the_sweep_by_command_says_what_it_did_and_fails_while_something_is_unclear(harbour, ultravox, run_command):
    batch = harbour.batch(queued=1)
    claim_next_contact(batch)
    CampaignContact.objects.update(last_attempt_at=timezone.now() - timedelta(hours=1))
    ultravox.listed = "<html>"

    status, (line,) = run_command("sweep_batches")
    assert (status, json.loads(line)["unclear"]) == (1, 1)
    ultravox.listed = None
    status, (line,) = run_command("sweep_batches")
    assert (status, json.loads(line)) == (0, {"recorded": 0, "given_back": 1, "ended": 0, "unclear": 0})
    assert run_sweep() == SweepResult()
