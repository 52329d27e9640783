"""The limits of a batch: ``max_concurrent`` and ``calls_per_minute``."""

import threading
from datetime import timedelta

import pytest

from calls.dialler import claims
from calls.dialler.passes import PassResult, run_pass
from calls.dialler.placing import DialOutcome, place_next_call
from calls.statuses import ContactStatus
from calls.tests.support.concurrency import PausedThread
from calls.tests.support.factories import backdate_attempts, checked_counters

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_batch_has_at_most_max_concurrent_calls_in_progress(harbour, ultravox):
    batch = harbour.batch(queued=9)
    type(batch).objects.update(max_concurrent=4)

    assert run_pass() == PassResult(1, 4, 0)
    assert run_pass() == PassResult(0, 0, 0)
    batch.contacts.filter(status=ContactStatus.IN_PROGRESS).first().record_answered(outcome="answered")
    assert run_pass() == PassResult(1, 1, 0)


def test_a_batch_starts_at_most_calls_per_minute_calls_in_a_minute(harbour, ultravox):
    batch = harbour.batch(queued=9)
    type(batch).objects.update(calls_per_minute=4)

    assert run_pass() == PassResult(1, 4, 0)
    for contact in batch.contacts.filter(status=ContactStatus.IN_PROGRESS):
        contact.record_answered(outcome="answered")
    assert run_pass() == PassResult(0, 0, 0)
    backdate_attempts(batch, timedelta(seconds=60))
    assert run_pass() == PassResult(1, 4, 0)


def test_a_pass_waits_a_few_seconds_until_calls_per_minute_allows_the_next_call(harbour, ultravox):
    batch = harbour.batch(queued=3)
    type(batch).objects.update(calls_per_minute=2)
    run_pass()
    backdate_attempts(batch, timedelta(seconds=59))

    assert run_pass() == PassResult(1, 1, 0)


def test_the_limits_hold_across_concurrent_passes(harbour, ultravox):
    batch = harbour.batch(queued=50)
    type(batch).objects.update(calls_per_minute=20, max_concurrent=7)
    passes = [PausedThread(run_pass) for _ in range(4)]
    for thread in passes:
        thread.start()

    results = [thread.release() for thread in passes]

    assert sum(result.calls_initiated for result in results) == 7 == len(ultravox.asked)
    assert checked_counters(batch) == {"total_contacts": 50, "queued": 43, "in_progress": 7}


def test_control_without_the_lock_concurrent_claims_exceed_max_concurrent(harbour, ultravox, without_lock, monkeypatch):
    batch = harbour.batch(queued=50)
    type(batch).objects.update(max_concurrent=1)
    choose = claims._choose
    barrier, arrivals = threading.Barrier(2, timeout=20), []

    def at_the_same_moment(*arguments):
        choice = choose(*arguments)
        arrivals.append(barrier.wait())
        return choice

    monkeypatch.setattr(claims, "_choose", at_the_same_moment)
    threads = [PausedThread(lambda: place_next_call(batch)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert [thread.release() for thread in threads] == [DialOutcome.PLACED, DialOutcome.PLACED]
    assert sorted(arrivals) == [0, 1]
