"""
Races with a cancel of all batches of an agency. Each batch is cancelled in a transaction of its own, so at any moment
each one is either wholly cancelled or not changed at all.
"""

import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
from django.db import connection, connections

from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch, CampaignContact, CancelResult
from calls.statuses import DIALABLE, BatchStatus, ContactStatus
from calls.tests.support.agency_verbs import cancel_all, hold
from calls.tests.support.concurrency import CONTACT_UPDATE, PausedThread, until, wait_for_lock_waiter
from calls.tests.support.factories import ROOT, batch_snapshot, cancel, checked_counters, count, plain_connection
from calls.tests.support.other_claimers import other_claimers
from calls.tests.support.server import database_url, environment_on

pytestmark = pytest.mark.django_db(transaction=True)

BATCHES, CONTACTS = 50, 6


class Dialler(threading.Thread):
    """Claim contacts of random batches until ``stopped`` is set. ``claimed`` counts them."""

    def __init__(self, batches, stopped):
        super().__init__(daemon=True)
        self.batches, self.stopped, self.claimed = batches, stopped, 0

    def run(self):
        try:
            while not self.stopped.is_set():
                self.claimed += claim_next_contact(random.choice(self.batches)) is not None
        finally:
            connections.close_all()


def in_progress(batch):
    return set(batch.contacts.filter(status=ContactStatus.IN_PROGRESS).values_list("pk", flat=True))


def cancel_all_during_claims(tenant):
    """
    Cancel all batches while two diallers and another service claim their contacts.

    Return the results, and the batches in which a contact was claimed after the batch's result. Assert that contacts
    were claimed before.
    """
    batches = [tenant.batch(queued=CONTACTS) for _ in range(BATCHES)]
    contact_ids = list(CampaignContact.objects.order_by("?").values_list("pk", flat=True))
    stopped = threading.Event()
    diallers = [Dialler(batches, stopped) for _ in range(2)]
    with other_claimers(contact_ids):
        for dialler in diallers:
            dialler.start()
        until(lambda: all(dialler.claimed for dialler in diallers))
        results, calls_of = {}, {}
        for batch, result in cancel_all(tenant):
            calls_of[batch], results[batch] = in_progress(batch), result
        # The other service tries to claim every contact once more.
        time.sleep(1.5)
        stopped.set()
        for dialler in diallers:
            dialler.join()
    assert any(calls_of.values())
    return results, [batch for batch in results if in_progress(batch) != calls_of[batch]]


@pytest.mark.slow
def test_no_contact_is_claimed_in_a_batch_after_its_result(harbour):
    results, claimed_later = cancel_all_during_claims(harbour)

    assert len(results) == BATCHES
    assert {type(result) for result in results.values()} == {CancelResult}
    assert claimed_later == []
    for batch, result in results.items():
        assert count(batch, *DIALABLE) == 0
        assert count(batch, ContactStatus.SKIPPED) == result.contacts_skipped
    assert set(CallBatch.objects.values_list("status", flat=True)) == {BatchStatus.CANCELLED}


@pytest.mark.slow
def test_control_without_the_guards_another_service_claims_contacts_after_the_result(harbour, without_guards):
    _, claimed_later = cancel_all_during_claims(harbour)

    assert claimed_later


# Interruptions


def test_the_remaining_batches_are_unchanged_if_the_iterator_is_abandoned(harbour):
    batches = [harbour.batch(queued=3) for _ in range(BATCHES)]
    before = {batch.pk: batch_snapshot(batch) for batch in batches}

    results = cancel_all(harbour)
    done = {next(results)[0].pk for _ in range(20)}
    results.close()

    assert len(done) == 20
    for batch in batches:
        if batch.pk in done:
            assert checked_counters(batch) == {"total_contacts": 3, "skipped": 3}
        else:
            assert batch_snapshot(batch) == before[batch.pk]
    again = dict(cancel_all(harbour))
    assert {batch.pk for batch in again} == before.keys() - done
    assert {result.contacts_skipped for result in again.values()} == {3}
    assert list(cancel_all(harbour)) == []


def is_whole(batch, result, before):
    """Return whether the batch is cancelled if the result says so, and otherwise as it was before."""
    if isinstance(result, CancelResult):
        return checked_counters(batch) == {"total_contacts": 3, "skipped": 3}
    return batch_snapshot(batch) == before[batch.pk]


def end_session(backend):
    """The server ends the session, as an administrator could. It accepts the next one."""
    with plain_connection() as plain:
        plain.execute("SELECT pg_terminate_backend(%s, 5000)", [backend.info.backend_pid])


def cut_connection(backend):
    """The connection breaks without an answer of the server."""
    with socket.socket(fileno=os.dup(backend.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("interrupt", [end_session, cut_connection])
def test_an_interruption_in_the_middle_of_a_batch_fails_that_batch_alone_and_a_repeat_cancels_it(harbour, interrupt):
    batches = [harbour.batch(queued=3) for _ in range(10)]
    before = {batch.pk: batch_snapshot(batch) for batch in batches}
    updates = []

    def interrupt_fourth(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith(CONTACT_UPDATE):
            updates.append(sql)
            if len(updates) == 4:
                interrupt(connection.connection)
        return result

    with connection.execute_wrapper(interrupt_fourth):
        results = list(cancel_all(harbour))

    outcomes = [CancelResult] * 3 + [BatchUpdateFailed] + [CancelResult] * 6
    assert [type(result) for _, result in results] == outcomes
    assert all(is_whole(batch, result, before) for batch, result in results)
    assert [result.contacts_skipped for _, result in cancel_all(harbour)] == [3]


def test_a_command_that_is_killed_leaves_no_batch_half_cancelled_and_a_repeat_cancels_the_rest(harbour):
    batches = [harbour.batch(queued=3) for _ in range(10)]
    before = {batch.pk: batch_snapshot(batch) for batch in batches}
    command = [sys.executable, "manage.py", "cancel_batch", "--all", "--agency", "harbour"]
    with plain_connection() as plain, plain.transaction():
        # The last contact of a batch in the middle is locked, so its other contacts have been written.
        last = batches[5].contacts.oldest_first().last()
        plain.execute("SELECT 1 FROM campaign_contacts WHERE id = %s FOR UPDATE", [last.pk])
        with subprocess.Popen(
            command, cwd=ROOT, env=environment_on(database_url()), stdout=subprocess.DEVNULL
        ) as process:
            until(lambda: wait_for_lock_waiter() or process.poll() is not None)
            process.kill()

    cancelled = set(CallBatch.objects.filter(status=BatchStatus.CANCELLED).values_list("pk", flat=True))
    assert cancelled == {batch.pk for batch in batches[6:]}
    for batch in batches:
        assert batch.pk in cancelled or batch_snapshot(batch) == before[batch.pk]
        assert batch.pk not in cancelled or checked_counters(batch) == {"total_contacts": 3, "skipped": 3}
    assert [result.contacts_skipped for _, result in cancel_all(harbour)] == [3] * 6


# Batches that change meanwhile


def end_by_cancel(batch):
    cancel(batch)


def end_by_completion(batch):
    batch.contacts.update(status=ContactStatus.COMPLETED)
    CallBatch.objects.filter(pk=batch.pk).update(status=BatchStatus.COMPLETED)


def delete(batch):
    batch.contacts.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM call_batches WHERE id = %s", [batch.pk])


@pytest.mark.parametrize("end", [end_by_cancel, end_by_completion, delete])
def test_a_batch_that_ends_or_is_deleted_meanwhile_is_left_out_and_is_no_error(harbour, end):
    batches = [harbour.batch(queued=3) for _ in range(5)]
    results = cancel_all(harbour)
    first, _ = next(results)
    ending = next(batch for batch in batches if batch != first)

    end(ending)

    others = {batch.pk: type(result) for batch, result in results}
    assert others == {batch.pk: CancelResult for batch in batches if batch not in (first, ending)}


def test_a_batch_that_is_being_cancelled_by_another_request_is_waited_for_and_left_out(harbour):
    batches = [harbour.batch(queued=3) for _ in range(3)]

    with PausedThread(lambda: cancel(batches[1]), after=CONTACT_UPDATE) as single:
        cancelling = PausedThread(lambda: list(cancel_all(harbour)))
        cancelling.start()
        assert wait_for_lock_waiter()

    assert isinstance(single.outcome, CancelResult)
    assert {batch for batch, _ in cancelling.release()} == {batches[0], batches[2]}


def test_of_two_concurrent_cancels_of_all_each_batch_is_cancelled_by_one(harbour):
    batches = [harbour.batch(queued=3) for _ in range(20)]
    cancelling = [PausedThread(lambda: list(cancel_all(harbour))) for _ in range(2)]
    for thread in cancelling:
        thread.start()

    results = [item for thread in cancelling for item in thread.release()]

    assert sorted(str(batch.pk) for batch, _ in results) == sorted(str(batch.pk) for batch in batches)
    assert [result.contacts_skipped for _, result in results] == [3] * 20


def test_a_batch_that_is_created_meanwhile_is_not_cancelled(harbour):
    harbour.batch(queued=3)
    results = cancel_all(harbour)
    next(results)

    created = harbour.batch(queued=3)

    assert list(results) == []
    assert CallBatch.objects.get(pk=created.pk).status == BatchStatus.PROCESSING


# Locks of another service


def test_a_locked_batch_fails_and_the_others_are_cancelled(harbour, short_lock_timeout):
    batches = [harbour.batch(queued=3) for _ in range(5)]
    locked = batches[2]
    before = batch_snapshot(locked)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM call_batches WHERE id = %s FOR UPDATE", [locked.pk])
        results = dict(cancel_all(harbour))

    assert type(results.pop(locked)) is BatchUpdateFailed
    assert {type(result) for result in results.values()} == {CancelResult}
    assert len(results) == 4
    assert batch_snapshot(locked) == before
    assert [batch for batch, _ in cancel_all(harbour)] == [locked]


def test_a_locked_contact_fails_its_batch_alone(harbour, short_lock_timeout):
    batches = [harbour.batch(queued=3) for _ in range(3)]
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM campaign_contacts WHERE batch_id = %s FOR UPDATE", [batches[1].pk])
        results = dict(cancel_all(harbour))

    assert {batch: type(result) for batch, result in results.items()} == {
        batches[0]: CancelResult,
        batches[1]: BatchUpdateFailed,
        batches[2]: CancelResult,
    }


def test_a_cancel_of_all_batches_of_an_agency_that_is_being_held_does_not_wait(harbour, short_lock_timeout):
    for _ in range(3):
        harbour.batch(queued=3)

    with PausedThread(lambda: hold(harbour), after='UPDATE "agencies"') as holding:
        assert [type(result) for _, result in cancel_all(harbour)] == [CancelResult] * 3

    assert holding.outcome.held_at is not None
