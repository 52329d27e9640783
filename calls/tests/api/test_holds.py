"""POST /functions/v1/calls-agency-hold and calls-agency-release, and what a held agency's batches do."""

import re
from datetime import timedelta

import pytest
from django.db import DatabaseError, OperationalError, ProgrammingError, connection, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls.dialler.claims import claim_next_contact
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.starting import start_batch
from calls.models import Agency, AgencyEvent, CallBatch
from calls.signals import agency_held, agency_released
from calls.statuses import BatchStatus
from calls.tests.support.dialling import change, claim, started_batch
from calls.tests.support.factories import FUNCTIONS, batch_snapshot, call, cancel, client_of, pause
from calls.tests.support.functions import HOLD, RELEASE, agency_history, answer_to, latest_context, post_to

pytestmark = pytest.mark.django_db

HELD_MESSAGE = (
    "Agency on hold. In-progress calls will complete but no new calls will be initiated until it is released."
)
RELEASED_MESSAGE = (
    "Agency released. Calls start again in the batches that are not paused, cancelled or scheduled for later."
)


@pytest.fixture
def hold(owner):
    """Send calls-agency-hold as Harbour's owner. Returns the status and the JSON of the answer."""
    return lambda body=None: answer_to(owner, HOLD, body)


@pytest.fixture
def release(owner):
    """Send calls-agency-release as Harbour's owner. Returns the status and the JSON of the answer."""
    return lambda body=None: answer_to(owner, RELEASE, body)


def held_at(tenant):
    return Agency.objects.values_list("held_at", flat=True).get(pk=tenant.agency.pk)


def in_iso(time):
    return time.isoformat().replace("+00:00", "Z")


def get(client, batch):
    return client.get(f"{FUNCTIONS}get", {"batch_id": str(batch.pk)}).json()["batch"]


# The answers


def test_a_hold_is_answered_with_its_time_and_the_calls_in_progress(harbour, hold):
    for queued in (1, 2):
        batch = started_batch(harbour, queued=queued)
        claim(batch)

    status, answer = hold()

    assert (status, answer) == (
        200,
        {"success": True, "held_at": in_iso(held_at(harbour)), "calls_in_progress": 2, "message": HELD_MESSAGE},
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", answer["held_at"])


def test_a_release_is_answered_with_a_message(harbour, hold, release):
    hold()

    assert release() == (200, {"success": True, "message": RELEASED_MESSAGE})
    assert held_at(harbour) is None


def test_an_agency_on_hold_keeps_the_time_of_its_hold(harbour, hold):
    earlier = timezone.now() - timedelta(hours=1)
    Agency.objects.filter(pk=harbour.agency.pk).update(held_at=earlier)

    assert hold()[1]["held_at"] == in_iso(earlier)
    assert held_at(harbour) == earlier
    assert agency_history(harbour) == []


def test_a_further_reason_is_added_to_the_history_of_an_agency_on_hold(harbour, hold):
    earlier = timezone.now() - timedelta(hours=1)
    Agency.objects.filter(pk=harbour.agency.pk).update(held_at=earlier)

    assert hold({"reason": "The regulator called"})[1]["held_at"] == in_iso(earlier)

    assert held_at(harbour) == earlier
    assert agency_history(harbour) == ["held"]
    assert harbour.agency.events.get().held_at == earlier
    assert latest_context(harbour)["reason"] == "The regulator called"


def test_an_agency_that_is_not_on_hold_can_be_released(harbour, release):
    assert release() == (200, {"success": True, "message": RELEASED_MESSAGE})
    assert agency_history(harbour) == []


def test_another_hold_has_another_time(harbour, hold, release):
    Agency.objects.filter(pk=harbour.agency.pk).update(held_at=timezone.now() - timedelta(hours=1))
    before = held_at(harbour)
    release()

    hold()

    assert held_at(harbour) > before


def test_a_hold_moves_updated_at_and_no_other_column_of_the_agency(harbour, hold):
    before = Agency.objects.values().get(pk=harbour.agency.pk)

    hold()

    after = Agency.objects.values().get(pk=harbour.agency.pk)
    assert {name for name in after if after[name] != before[name]} <= {"held_at", "updated_at"}


@pytest.mark.parametrize("body", [None, {}, {"reason": None}, {"unknown": 1}, {"agency_id": "x"}], ids=str)
def test_the_body_of_a_hold_may_be_absent_and_unknown_keys_are_ignored(harbour, hold, body):
    assert hold(body)[0] == 200
    assert held_at(harbour) is not None


@pytest.mark.parametrize("body", [b"{", b"null", b"[]", b"5", b'"reason"', b"\xff"], ids=ascii)
def test_a_body_of_a_hold_that_is_not_a_json_object_is_refused(harbour, hold, body):
    assert hold(body) == (400, {"error": "body must be a JSON object", "code": "body_invalid"})
    assert held_at(harbour) is None


def test_a_body_of_a_hold_over_64_kb_is_refused(harbour, hold):
    assert hold(b" " * (64 * 1024 + 1)) == (413, {"error": "Request body too large", "code": "body_too_large"})
    assert held_at(harbour) is None


@pytest.mark.parametrize("body", [None, {}, b"nonsense", b"[]"], ids=str)
def test_a_release_ignores_its_body(harbour, hold, release, body):
    hold()

    assert release(body)[0] == 200
    assert held_at(harbour) is None


@pytest.mark.parametrize("path", [HOLD, RELEASE])
def test_other_methods_are_refused(owner, path):
    answer = owner.get(path)

    assert (answer.status_code, answer["Allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("path", [HOLD, RELEASE])
def test_a_database_error_is_answered_with_500_and_changes_nothing(harbour, owner, monkeypatch, path):
    def fail(*args, **kwargs):
        raise DatabaseError("with +12125550100 in it")

    started = timezone.now() if path == RELEASE else None
    Agency.objects.filter(pk=harbour.agency.pk).update(held_at=started)
    monkeypatch.setattr(QuerySet, "select_for_update", fail)

    assert answer_to(owner, path) == (500, {"error": "Failed to update agency", "code": "agency_update_failed"})
    assert held_at(harbour) == started
    assert agency_history(harbour) == []


def test_a_hold_whose_claims_cannot_be_counted_is_not_confirmed(harbour, owner, monkeypatch):
    def fail(self):
        raise OperationalError

    monkeypatch.setattr(QuerySet, "count", fail)

    answer = post_to(owner, HOLD)

    assert (answer.status_code, answer["Retry-After"], answer.json()["code"]) == (503, "5", "hold_unconfirmed")
    assert held_at(harbour) is not None


@pytest.mark.parametrize("path", [HOLD, RELEASE])
def test_the_number_of_queries_does_not_depend_on_the_number_of_batches(harbour, owner, path):
    def queries():
        Agency.objects.filter(pk=harbour.agency.pk).update(held_at=None if path == HOLD else timezone.now())
        with CaptureQueriesContext(connection) as captured:
            assert answer_to(owner, path)[0] == 200
        return len(captured)

    queries()
    few = queries()
    for _ in range(30):
        started_batch(harbour)

    assert queries() == few


# The history and the log


def test_the_history_has_each_hold_and_release_with_actor_source_and_reason(harbour, hold, release):
    actor = {"kind": "agency_user", "id": str(harbour.owner.pk), "label": harbour.owner.email}
    hold({"reason": "A complaint"})
    stored = held_at(harbour)
    assert latest_context(harbour) == {"actor": actor, "via": "api", "reason": "A complaint"}
    assert harbour.agency.events.latest("pk").held_at == stored

    release()

    assert latest_context(harbour) == {"actor": actor, "via": "api"}
    assert harbour.agency.events.latest("pk").held_at is None
    assert agency_history(harbour) == ["held", "released"]


def test_repeated_holds_without_a_reason_and_repeated_releases_add_no_rows(harbour, hold, release):
    for send in (hold, hold, release, release, hold):
        send()

    assert agency_history(harbour) == ["held", "released", "held"]


@pytest.mark.parametrize("rewrite", [lambda events: events.update(pgh_label="x"), lambda events: events.delete()])
def test_history_rows_cannot_be_changed_or_deleted(harbour, hold, rewrite):
    hold()

    with pytest.raises(ProgrammingError, match="Cannot update or delete rows"), transaction.atomic():
        rewrite(AgencyEvent.objects.all())


def test_another_change_of_the_agency_adds_no_row(harbour):
    Agency.objects.filter(pk=harbour.agency.pk).update(name="Renamed")

    assert agency_history(harbour) == []


def test_each_hold_and_release_is_logged_and_sends_a_signal(
    harbour, hold, release, caplog, django_capture_on_commit_callbacks
):
    caplog.set_level("INFO", "calls")
    results = []

    def receive(sender, result, **named):
        results.append((sender, result.agency_id, result.status))

    agency_held.connect(receive)
    agency_released.connect(receive)
    for send in (hold, release):
        with django_capture_on_commit_callbacks(execute=True):
            send()

    assert results == [(Agency, harbour.agency.pk, "held"), (Agency, harbour.agency.pk, "released")]
    prefixes = [f"{verb} agency={harbour.agency.pk} source=api actor=agency_user:" for verb in ("hold", "release")]
    assert [line.startswith(prefix) for line, prefix in zip(caplog.messages, prefixes, strict=True)] == [True, True]
    assert "outcome=held in_progress=0 ms=" in caplog.messages[0]


# What is held


def test_list_and_get_show_the_hold(harbour, owner, hold, release):
    batch = started_batch(harbour)
    assert (get(owner, batch)["agency_held_at"], get(owner, batch)["waiting_for"]) == (None, None)

    _, answer = hold()

    (listed,) = owner.get(f"{FUNCTIONS}list").json()["batches"]
    for shown in (listed, get(owner, batch)):
        assert shown["agency_held_at"] == answer["held_at"]
        assert shown["waiting_for"] == f"the agency has been on hold since {held_at(harbour):%Y-%m-%d %H:%M} UTC"
    release()
    assert (get(owner, batch)["agency_held_at"], get(owner, batch)["waiting_for"]) == (None, None)


@pytest.mark.parametrize("status", BatchStatus)
def test_a_hold_and_a_release_change_no_batch(harbour, hold, release, status):
    batch = harbour.batch(status, completed=1)
    before = batch_snapshot(batch)

    hold()
    assert batch_snapshot(batch) == before
    release()
    assert batch_snapshot(batch) == before


def test_batches_can_be_created_paused_resumed_and_cancelled_during_a_hold(harbour, owner, hold):
    hold()

    created = call(owner, "create", harbour.create_body())
    assert created.status_code == 201
    batch = change(CallBatch.objects.get(), status=BatchStatus.PROCESSING)
    statuses = [
        call(owner, verb, {"batch_id": str(batch.pk)}).json()["status"] for verb in ("pause", "resume", "cancel")
    ]

    assert statuses == ["paused", "processing", "cancelled"]


@pytest.mark.parametrize("do_not_call", [False, True])
def test_no_contact_is_claimed_or_skipped_during_a_hold(harbour, hold, do_not_call):
    batch = started_batch(harbour, queued=1)
    batch.contacts.update(do_not_call=do_not_call)
    hold()
    before = batch_snapshot(batch)

    assert claim_next_contact(batch) is None
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("status", [BatchStatus.PENDING, BatchStatus.SCHEDULED, BatchStatus.PROCESSING])
def test_no_batch_is_started_during_a_hold(harbour, hold, status):
    batch = harbour.batch(status, pending=1)
    hold()
    before = batch_snapshot(batch)

    start_batch(batch)

    assert batch_snapshot(batch) == before


def test_a_contact_is_claimed_after_the_release(harbour, hold, release):
    batch = started_batch(harbour, queued=1)
    hold()
    release()

    assert claim_next_contact(batch) is not None


def test_another_agency_is_not_affected(harbour, bluebell, hold):
    hold()

    assert held_at(bluebell) is None
    assert claim_next_contact(started_batch(bluebell)) is not None
    assert get(client_of(bluebell.owner), started_batch(bluebell))["agency_held_at"] is None


@pytest.mark.django_db(transaction=True)
def test_a_pass_starts_no_batch_and_places_no_call_during_a_hold(harbour, bluebell, hold, release, ultravox):
    held = [harbour.batch(BatchStatus.PENDING, pending=1), started_batch(harbour), harbour.batch(queued=1)]
    free = started_batch(bluebell)
    hold()
    before = [batch_snapshot(batch) for batch in held]

    assert run_pass() == PassResult(1, 1, 0)

    assert [asked.metadata["batch_id"] for asked in ultravox.asked] == [str(free.pk)]
    assert [batch_snapshot(batch) for batch in held] == before
    release()
    assert run_pass().calls_initiated == 3


@pytest.mark.django_db(transaction=True)
def test_a_pass_places_no_call_of_a_batch_that_was_created_during_a_hold(harbour, owner, hold, ultravox):
    hold()
    call(owner, "create", harbour.create_body())

    assert run_pass() == PassResult(0, 0, 0)
    assert ultravox.asked == []
    assert CallBatch.objects.get().status == BatchStatus.PENDING


@pytest.mark.django_db(transaction=True)
def test_a_release_starts_nothing_that_is_paused_cancelled_or_scheduled(harbour, hold, release, ultravox):
    paused, cancelled = started_batch(harbour), started_batch(harbour)
    later = change(harbour.batch(BatchStatus.SCHEDULED, scheduled=1), scheduled_for=timezone.now() + timedelta(hours=1))
    hold()
    pause(paused)
    cancel(cancelled)
    before = [batch_snapshot(batch) for batch in (paused, cancelled, later)]

    release()

    assert run_pass() == PassResult(0, 0, 0)
    assert ultravox.asked == []
    assert [batch_snapshot(batch) for batch in (paused, cancelled, later)] == before
