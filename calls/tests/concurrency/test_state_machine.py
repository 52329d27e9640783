"""Random sequences of actions on batches: counters match a fresh count, and final statuses are kept."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now
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

pytestmark = [pytest.mark.django_db, pytest.mark.acceptance]

# The statuses that may follow each status.
BATCH_MOVES = {
    "pending": {"processing", "cancelled"},
    "scheduled": {"processing", "paused", "cancelled"},
    "processing": {"paused", "completed", "cancelled"},
    "paused": {"processing", "scheduled", "cancelled"},
    "completed": set(),
    "cancelled": set(),
}
CONTACT_MOVES = {
    "pending": {"queued", "in_progress", "skipped", "failed"},
    "queued": {"in_progress", "skipped", "failed"},
    "in_progress": {"completed", "failed", "queued", "skipped"},
    "completed": set(),
    # Only when a row of rejections is given back.
    "failed": {"queued"},
    "skipped": set(),
}

# A small number, so that successive actions often concern the same batch.
MAX_BATCHES = 3
# The default of CallBatch.max_concurrent.
MAX_CONCURRENT = 10


class Batches(RuleBasedStateMachine):
    """The batches of one agency with their contacts, and the actions on them. ``calls`` has claimed contacts."""

    batches = Bundle("batches")
    calls = Bundle("calls")
    tenant = None

    def __init__(self):
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.batch_statuses, self.contact_statuses = {}, {}

    def teardown(self):
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    @precondition(lambda self: CallBatch.objects.count() < MAX_BATCHES)
    @rule(
        target=batches, size=st.integers(1, 5), hours=st.none() | st.sampled_from([-1, 1]), attempts=st.integers(1, 3)
    )
    def create(self, size, hours, attempts):
        time = hours and (timezone.now() + timedelta(hours=hours)).isoformat()
        contacts = [{"phone_number": contact.phone_number, "max_attempts": attempts} for contact in new_contacts(size)]
        new = NewBatch.parse(self.tenant.create_body(contacts=contacts, scheduled_for=time))
        return CallBatch.create(new, agency_id=self.tenant.agency.pk, actor=STAFF_ACTOR, source=Source.API).batch

    @rule(batch=batches)
    def start(self, batch):
        """A batch is started only when it is due."""
        due = CallBatch.objects.due().filter(pk=batch.pk).exists()
        before = self.status_of(batch)
        start_batch(batch)
        assert self.status_of(batch) in ("processing", "completed") if due else self.status_of(batch) == before

    @rule(batch=batches)
    def make_due(self, batch):
        CallBatch.objects.filter(pk=batch.pk).update(scheduled_for=timezone.now() - timedelta(hours=1))

    @rule(batch=batches, size=st.integers(0, 4))
    def add(self, batch, size):
        finished = self.status_of(batch) in FINAL
        try:
            batch.add_contacts(new_contacts(size))
            assert not finished
        except BatchFinished:
            assert finished

    @rule(target=calls, batch=batches)
    def claim(self, batch):
        may_claim = (
            self.status_of(batch) == BatchStatus.PROCESSING
            and batch.contacts.with_call_in_progress().count() < MAX_CONCURRENT
        )
        has_dialable = batch.contacts.dialable().filter(attempts__lt=F("max_attempts")).exists()
        contact = claim_next_contact(batch)
        assert (contact is not None) is (may_claim and has_dialable)
        return contact if contact else multiple()

    @rule(target=calls, contact=calls)
    def claim_again(self, contact):
        """Another service claims a contact that is in progress, which is refused in a finished or paused batch."""
        if not contact.in_this_attempt().exists():
            return multiple()
        stopped = self.status_of(contact.batch) in (*FINAL, BatchStatus.PAUSED)
        try:
            with transaction.atomic():
                contact.in_this_attempt().update(attempts=F("attempts") + 1, last_attempt_at=Now())
            assert not stopped
        except IntegrityError:
            assert stopped
        return CampaignContact.objects.get(pk=contact.pk)

    @rule(contact=calls)
    def record_answered(self, contact):
        """A result has an effect only while the attempt that it belongs to is in progress."""
        in_progress = contact.in_this_attempt().exists()
        assert contact.record_answered(outcome="answered", duration_seconds=1) is in_progress

    @rule(contact=consumes(calls))
    def record_failed(self, contact):
        """The contact is queued again while attempts are left and the batch is not finished."""
        before, in_progress = CampaignContact.objects.get(pk=contact.pk), contact.in_this_attempt().exists()
        retry = before.attempts < before.max_attempts and self.status_of(before.batch) not in FINAL
        assert contact.record_failed(outcome="no_answer") is in_progress
        if in_progress:
            contact.refresh_from_db()
            assert contact.status == (ContactStatus.QUEUED if retry else ContactStatus.FAILED)

    @rule(contact=consumes(calls), released=st.booleans())
    def record_not_placed(self, contact, released):
        """The provider rejects the call or is busy. In a finished batch the contact is skipped."""
        before, in_progress = CampaignContact.objects.get(pk=contact.pk), contact.in_this_attempt().exists()
        finished = self.status_of(before.batch) in FINAL
        retry = released or before.attempts < before.max_attempts
        # A reason of its own, so that the rejection is not part of a row.
        reason = f"rejected {uuid4()}"
        assert (contact.release_claim() if released else contact.record_rejected(reason=reason)) is in_progress
        if in_progress:
            contact.refresh_from_db()
            status = ContactStatus.QUEUED if retry else ContactStatus.FAILED
            assert contact.status == (ContactStatus.SKIPPED if finished else status)
            assert contact.attempts == before.attempts - released

    @rule(contact=consumes(calls))
    def record_rejected_like_others(self, contact):
        """The fifth rejection in a row pauses the batch, and none of the five counts."""
        before, in_progress = CampaignContact.objects.get(pk=contact.pk), contact.in_this_attempt().exists()
        was_processing = self.status_of(before.batch) == BatchStatus.PROCESSING
        assert contact.record_rejected(reason="the same") is in_progress
        if was_processing and self.status_of(before.batch) == BatchStatus.PAUSED:
            assert CampaignContact.objects.get(pk=contact.pk).attempts == before.attempts - 1

    @rule(contact=consumes(calls))
    def record_batch_refused(self, contact):
        """The contact is given back, and a processing batch is paused."""
        before, in_progress = CampaignContact.objects.get(pk=contact.pk), contact.in_this_attempt().exists()
        status = self.status_of(before.batch)
        assert contact.record_batch_refused(reason="no credit") is in_progress
        if in_progress:
            contact.refresh_from_db()
            assert contact.status == (ContactStatus.SKIPPED if status in FINAL else ContactStatus.QUEUED)
            assert contact.attempts == before.attempts - 1
            assert self.status_of(before.batch) == (BatchStatus.PAUSED if status == BatchStatus.PROCESSING else status)

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
        finished, dialable = self.status_of(batch) in FINAL, batch.contacts.dialable().count()
        try:
            assert cancel(batch).contacts_skipped == dialable
            assert not finished
        except BatchFinished:
            assert finished

    @invariant()
    def counters_match_a_fresh_count(self):
        for batch in CallBatch.objects.all():
            counters = batch.contacts.counters()
            assert {name: getattr(batch, name) for name in counters} == counters
            parts = batch.queued + batch.in_progress + batch.completed + batch.failed + batch.skipped
            assert parts == batch.total_contacts
            assert min(counters.values()) >= 0

    @invariant()
    def statuses_changed_only_as_allowed(self):
        for seen, moves, rows in (
            (self.batch_statuses, BATCH_MOVES, CallBatch.objects.values_list("pk", "status")),
            (self.contact_statuses, CONTACT_MOVES, CampaignContact.objects.values_list("pk", "status")),
        ):
            for pk, status in rows:
                before = seen.setdefault(pk, status)
                assert status == before or status in moves[before]
                seen[pk] = status

    @invariant()
    def finished_batches_have_no_dialable_contact_and_completed_ones_no_call_in_progress(self):
        assert not CampaignContact.objects.filter(batch__status__in=FINAL, status__in=DIALABLE).exists()
        assert not CampaignContact.objects.unfinished().filter(batch__status=BatchStatus.COMPLETED).exists()

    @invariant()
    def times_match_statuses(self):
        assert not CallBatch.objects.filter(status="paused", paused_at=None).exists()
        assert not CallBatch.objects.filter(status__in=FINAL, completed_at=None).exists()
        called = CampaignContact.objects.filter(status__in=["completed", "failed"])
        assert not called.filter(completed_at=None).exists()
        assert not CampaignContact.objects.exclude(pk__in=called).exclude(completed_at=None).exists()

    def status_of(self, batch):
        return CallBatch.objects.get(pk=batch.pk).status


THOROUGH = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
UNTIL_FIRST_FAILURE = settings(THOROUGH, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)


def test_counters_are_correct_and_final_statuses_are_kept_after_any_sequence_of_actions(harbour):
    class HarbourBatches(Batches):
        tenant = harbour

    run_state_machine_as_test(HarbourBatches, settings=THOROUGH)


@pytest.mark.parametrize(
    ("where", "name"),
    [(CallBatch, "adjust_counters"), (CallBatch, "_refuse_if_ended")],
    ids=["when counters are not adjusted", "when the status is not checked"],
)
def test_control_the_state_machine_fails(harbour, monkeypatch, where, name):
    class HarbourBatches(Batches):
        tenant = harbour

    monkeypatch.setattr(where, name, lambda self, **changes: None)

    with pytest.raises((AssertionError, DatabaseFailed)):
        run_state_machine_as_test(HarbourBatches, settings=UNTIL_FIRST_FAILURE)
