"""
Whatever happens to a batch, in whatever order: its counters are what a fresh count says, and what has ended stays
ended.
"""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from calls.audit import Source
from calls.dialler.claims import claim_next_contact
from calls.dialler.starting import start_batch
from calls.exceptions import BatchFinished, BatchNotPausable, BatchNotPaused, DatabaseFailed
from calls.inputs import NewBatch
from calls.models import CallBatch, CampaignContact
from calls.statuses import DIALABLE, FINAL, BatchStatus, ContactStatus
from calls.tests.support.factories import STAFF_ACTOR, cancel, new_contacts, pause, resume

pytestmark = pytest.mark.django_db

# What a status may become.
MOVES = {
    "pending": {"processing", "cancelled"},
    "scheduled": {"processing", "paused", "cancelled"},
    "processing": {"paused", "completed", "cancelled"},
    "paused": {"processing", "scheduled", "cancelled"},
    "completed": set(),
    "cancelled": set(),
}
CONTACT_MOVES = {
    "pending": {"queued", "in_progress", "skipped"},
    "queued": {"in_progress", "skipped"},
    "in_progress": {"completed", "failed", "queued", "skipped"},
    "completed": set(),
    "failed": set(),
    "skipped": set(),
}


# So few that what is done to one is often followed by something else done to the same.
FEW = 3
AT_ONCE = 10


class Batches(RuleBasedStateMachine):
    """Several batches of one agency, their contacts and calls, and all that can be done to them."""

    batches = Bundle("batches")
    calls = Bundle("calls")
    tenant = None

    def __init__(self):
        super().__init__()
        self.undo = transaction.atomic()
        self.undo.__enter__()
        self.statuses, self.contacts = {}, {}

    def teardown(self):
        transaction.set_rollback(True)
        self.undo.__exit__(None, None, None)

    @precondition(lambda self: CallBatch.objects.count() < FEW)
    @rule(
        target=batches, size=st.integers(1, 5), hours=st.none() | st.sampled_from([-1, 1]), attempts=st.integers(1, 3)
    )
    def create(self, size, hours, attempts):
        time = hours and (timezone.now() + timedelta(hours=hours)).isoformat()
        contacts = [{"phone_number": person.phone_number, "max_attempts": attempts} for person in new_contacts(size)]
        new = NewBatch.parse(self.tenant.wanted(contacts=contacts, scheduled_for=time))
        return CallBatch.create(new, agency_id=self.tenant.agency.pk, actor=STAFF_ACTOR, source=Source.API).batch

    @rule(batch=batches)
    def begin_pass(self, batch):
        """Which starts it when its time has come."""
        due = CallBatch.objects.due().filter(pk=batch.pk).exists()
        assert start_batch(batch) == 0 or due
        assert self.status_of(batch) in ("processing", "completed") or not due

    @rule(batch=batches)
    def the_time_comes(self, batch):
        CallBatch.objects.filter(pk=batch.pk).update(scheduled_for=timezone.now() - timedelta(hours=1))

    @rule(batch=batches, size=st.integers(0, 4))
    def add(self, batch, size):
        ended = self.status_of(batch) in FINAL
        try:
            batch.add_contacts(new_contacts(size))
            assert not ended
        except BatchFinished:
            assert ended

    @rule(target=calls, batch=batches)
    def claim(self, batch):
        dialled = (
            self.status_of(batch) == BatchStatus.PROCESSING and batch.contacts.with_call_in_progress().count() < AT_ONCE
        )
        waiting = batch.contacts.dialable().exists()
        contact = claim_next_contact(batch)
        assert (contact is not None) is (dialled and waiting)
        return contact if contact else multiple()

    @rule(contact=calls)
    def record_answered(self, contact):
        """Perhaps for the second time: then it has no effect."""
        under_way = CampaignContact.objects.get(pk=contact.pk).status == ContactStatus.IN_PROGRESS
        assert contact.record_answered(outcome="answered", duration_seconds=1) is under_way

    @rule(contact=consumes(calls))
    def record_failed(self, contact):
        """Which is a retry while attempts are left and the batch is live."""
        before = CampaignContact.objects.get(pk=contact.pk)
        under_way = before.status == ContactStatus.IN_PROGRESS
        retry = before.attempts < before.max_attempts and self.status_of(before.batch) not in FINAL
        assert contact.record_failed(outcome="no_answer") is under_way
        if under_way:
            contact.refresh_from_db()
            assert contact.status == (ContactStatus.QUEUED if retry else ContactStatus.FAILED)

    @rule(contact=consumes(calls), given_back=st.booleans())
    def the_provider_does_not_take_it(self, contact, given_back):
        """For good reason, or for the moment; in a batch that has ended nobody is called again."""
        before = CampaignContact.objects.get(pk=contact.pk)
        under_way, ended = before.status == ContactStatus.IN_PROGRESS, self.status_of(before.batch) in FINAL
        retry = given_back or before.attempts < before.max_attempts
        assert (contact.release_claim() if given_back else contact.record_rejected(reason="busy")) is under_way
        if under_way:
            contact.refresh_from_db()
            again = ContactStatus.QUEUED if retry else ContactStatus.FAILED
            assert contact.status == (ContactStatus.SKIPPED if ended else again)
            assert contact.attempts == before.attempts - given_back

    @rule(batch=batches)
    def pause(self, batch):
        possible = self.status_of(batch) in (BatchStatus.PROCESSING, BatchStatus.SCHEDULED)
        try:
            pause(batch)
            assert possible
        except BatchNotPausable:
            assert not possible

    @rule(batch=batches)
    def resume(self, batch):
        possible = self.status_of(batch) == BatchStatus.PAUSED
        try:
            resume(batch)
            assert possible
        except BatchNotPaused:
            assert not possible

    @rule(batch=batches)
    def cancel(self, batch):
        ended, waiting = self.status_of(batch) in FINAL, batch.contacts.dialable().count()
        try:
            assert cancel(batch).contacts_skipped == waiting
            assert not ended
        except BatchFinished:
            assert ended

    @invariant()
    def counters_are_what_a_fresh_count_says(self):
        for batch in CallBatch.objects.all():
            counters = batch.contacts.counters()
            assert {name: getattr(batch, name) for name in counters} == counters
            parts = batch.queued + batch.in_progress + batch.completed + batch.failed + batch.skipped
            assert parts == batch.total_contacts
            assert min(counters.values()) >= 0

    @invariant()
    def each_status_has_become_only_what_it_may(self):
        for seen, moves, rows in (
            (self.statuses, MOVES, CallBatch.objects.values_list("pk", "status")),
            (self.contacts, CONTACT_MOVES, CampaignContact.objects.values_list("pk", "status")),
        ):
            for pk, status in rows:
                before = seen.setdefault(pk, status)
                assert status == before or status in moves[before]
                seen[pk] = status

    @invariant()
    def nobody_waits_in_what_has_ended_nor_is_called_in_what_is_completed(self):
        assert not CampaignContact.objects.filter(batch__status__in=FINAL, status__in=DIALABLE).exists()
        assert not CampaignContact.objects.unfinished().filter(batch__status=BatchStatus.COMPLETED).exists()

    @invariant()
    def times_go_with_their_statuses(self):
        assert not CallBatch.objects.filter(status="paused", paused_at=None).exists()
        assert not CallBatch.objects.filter(status__in=FINAL, completed_at=None).exists()
        ended = CampaignContact.objects.filter(status__in=["completed", "failed"])
        assert not ended.filter(completed_at=None).exists()
        assert not CampaignContact.objects.exclude(pk__in=ended).exclude(completed_at=None).exists()

    def status_of(self, batch):
        return CallBatch.objects.get(pk=batch.pk).status


THOROUGH = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
UNTIL_THE_FIRST = settings(THOROUGH, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)


def test_whatever_happens_in_whatever_order_the_counters_are_right_and_what_has_ended_stays_ended(harbour):
    class OfHarbour(Batches):
        tenant = harbour

    run_state_machine_as_test(OfHarbour, settings=THOROUGH)


@pytest.mark.parametrize(
    ("where", "name"),
    [(CallBatch, "adjust_counters"), (CallBatch, "_refuse_if_ended")],
    ids=["nobody counts", "nobody looks at the status"],
)
def test_control_it_finds_out_when(harbour, monkeypatch, where, name):
    class OfHarbour(Batches):
        tenant = harbour

    monkeypatch.setattr(where, name, lambda self, **changes: None)

    with pytest.raises((AssertionError, DatabaseFailed)):
        run_state_machine_as_test(OfHarbour, settings=UNTIL_THE_FIRST)
