"""An agency with many slow requests leaves threads, the database and the processor to the others."""

import runpy
import threading
from contextlib import ExitStack

import pytest

from calls.api import concurrency
from calls.api.concurrency import AgencyLimit
from calls.api.errors import TooManyRequests
from calls.roles import Role
from calls.tests.support.factories import FUNCTIONS, ROOT, call, client_of

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]


@pytest.fixture
def take_all(harbour, monkeypatch):
    """Take all places of Harbour in a limit. Other requests do not wait for them."""
    with ExitStack() as stack:

        def take_all(limit):
            monkeypatch.setattr(limit, "_timeout", 0)
            for _ in range(limit._places):
                stack.enter_context(limit.place(harbour.agency.pk))

        yield take_all


def slow_requests(tenant):
    """Send one request to each endpoint that may take long. Return the responses by name."""
    client = client_of(tenant.owner)
    return {
        "list": client.get(f"{FUNCTIONS}list"),
        "get": client.get(f"{FUNCTIONS}get?batch_id={tenant.batch().pk}"),
        "create": call(client, "create", tenant.create_body()),
    }


def statuses(responses):
    return {name: response.status_code for name, response in responses.items()}


def large_body(tenant):
    return tenant.create_body(padding="x" * concurrency.LARGE_BODY_BYTES)


def test_a_slow_request_of_an_agency_that_holds_half_of_the_threads_is_refused(harbour, take_all):
    take_all(concurrency._THREADS)

    responses = slow_requests(harbour)

    assert statuses(responses) == {"list": 429, "get": 429, "create": 429}
    assert {response["Retry-After"] for response in responses.values()} == {"5"}
    assert responses["list"].json() == {
        "error": "Too many requests at once. Try again in a few seconds",
        "code": "too_many_requests",
    }


def test_another_agency_is_not_affected(bluebell, take_all):
    for limit in (concurrency._THREADS, concurrency._READS, concurrency._LARGE_BODIES):
        take_all(limit)

    assert statuses(slow_requests(bluebell)) == {"list": 200, "get": 200, "create": 201}
    assert call(client_of(bluebell.owner), "create", large_body(bluebell)).status_code == 201


def test_the_agency_can_still_pause_resume_and_cancel(harbour, owner, take_all):
    take_all(concurrency._THREADS)
    batch = harbour.batch(queued=3)

    answers = [call(owner, verb, {"batch_id": str(batch.pk)}) for verb in ("pause", "resume", "cancel")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[-1].json()["contacts_skipped"] == 3


def test_a_read_waits_for_other_reads_of_the_agency(harbour, take_all):
    take_all(concurrency._READS)

    assert statuses(slow_requests(harbour)) == {"list": 429, "get": 429, "create": 201}


def test_only_a_large_body_waits_for_another_large_body_of_the_agency(harbour, owner, take_all):
    take_all(concurrency._LARGE_BODIES)

    assert call(owner, "create", large_body(harbour)).status_code == 429
    assert statuses(slow_requests(harbour)) == {"list": 200, "get": 200, "create": 201}


def test_a_large_body_is_refused_before_it_waits_for_its_turn(harbour, take_all):
    take_all(concurrency._LARGE_BODIES)
    viewer = client_of(harbour.users[Role.CLIENT_VIEWER])

    assert call(viewer, "create", large_body(harbour)).status_code == 403
    assert viewer.generic("POST", f"{FUNCTIONS}create", b" " * (16 * 1024 * 1024 + 1)).status_code == 403


def test_a_refused_request_gives_its_place_back(harbour, owner, monkeypatch):
    for limit in (concurrency._THREADS, concurrency._READS, concurrency._LARGE_BODIES):
        monkeypatch.setattr(limit, "_places", 1)
        monkeypatch.setattr(limit, "_timeout", 0)

    for _ in range(2):
        assert owner.get(f"{FUNCTIONS}get?batch_id={harbour.agency.pk}").status_code == 404
        assert call(owner, "create", large_body(harbour) | {"contacts": []}).status_code == 400


def test_a_place_that_becomes_free_goes_to_a_waiting_request(harbour):
    limit = AgencyLimit(1, timeout=60)
    taken = threading.Event()

    def wait():
        with limit.place(harbour.agency.pk):
            taken.set()

    waiting = threading.Thread(target=wait)
    with limit.place(harbour.agency.pk):
        waiting.start()
        assert not taken.wait(0.2)
    waiting.join(60)

    assert taken.is_set()


def test_a_place_that_does_not_become_free_is_refused(harbour):
    limit = AgencyLimit(1, timeout=0.1)

    with limit.place(harbour.agency.pk), pytest.raises(TooManyRequests), limit.place(harbour.agency.pk):
        pass


@pytest.mark.parametrize(("variable", "workers"), [("3", 3), ("", 7), (None, 7)])
def test_gunicorn_starts_a_process_for_each_core_unless_it_is_told_otherwise(monkeypatch, variable, workers):
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if variable is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", variable)

    assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["workers"] == workers


def test_an_agency_can_hold_half_of_the_threads():
    assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["threads"] == 2 * concurrency._THREADS._places
