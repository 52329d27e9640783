"""Random sequences of actions on batches of two agencies: counters match a fresh count, and final statuses are kept."""

from datetime import timedelta
from uuid import uuid4

import hypothesis
import pytest
from cryptography.fernet import Fernet
from django.db import IntegrityError, transaction
from django.db.models import Count, F
from django.db.models.functions import Now
from django.utils import timezone
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from calls.audit import Source
from calls.dialler import claims
from calls.dialler.accounts import defer_account, get_provider
from calls.dialler.claims import claim_next_contact
from calls.dialler.starting import start_batch
from calls.exceptions import (
    BatchAlreadyReplaced,
    BatchFinished,
    BatchNotCancelled,
    BatchNotPausable,
    BatchNotPaused,
    DatabaseFailed,
    NoContactsToReplace,
)
from calls.inputs import NewBatch
from calls.models import Agency, CallBatch, CampaignContact
from calls.statuses import DIALABLE, FINAL, BatchStatus, ContactStatus, not_placed_note
from calls.tests.support.accounts import expire, set_key
from calls.tests.support.agency_verbs import hold, release, replace
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
    # Only when rejected contacts are given back.
    "failed": {"queued"},
    "skipped": set(),
}

# A small number, so that successive actions often concern the same batch.
MAX_BATCHES = 4
# The default of CallBatch.max_concurrent.
MAX_CONCURRENT = 10


# One of the two agencies.
AGENCIES = st.sampled_from([0, 1])
# Of the calls in progress of an agency.
LIMITS = st.sampled_from([None, 0, 1, 2])


class Batches(RuleBasedStateMachine):
    """
    The batches of two agencies with their contacts, and the actions on them. ``calls`` has claimed contacts.

    Each agency has an account of its own. All batches have the same numbers.
    """

    batches = Bundle("batches")
    calls = Bundle("calls")
    tenants = ()

    def __init__(self):
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        # ``deferred`` has the agencies whose account is deferred, ``stopped`` those that are on hold.
        self.batch_statuses, self.contact_statuses, self.deferred, self.stopped = {}, {}, set(), set()

    def teardown(self):
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    @precondition(lambda self: CallBatch.objects.count() < MAX_BATCHES)
    @rule(
        target=batches,
        agency=AGENCIES,
        size=st.integers(1, 5),
        hours=st.none() | st.sampled_from([-1, 1]),
        attempts=st.integers(1, 3),
    )
    def create(self, agency, size, hours, attempts):
        time = hours and (timezone.now() + timedelta(hours=hours)).isoformat()
        contacts = [{"phone_number": contact.phone_number, "max_attempts": attempts} for contact in new_contacts(size)]
        tenant = self.tenants[agency]
        new = NewBatch.parse(tenant.create_body(contacts=contacts, scheduled_for=time))
        return CallBatch.create(new, agency_id=tenant.agency.pk, actor=STAFF_ACTOR, source=Source.API).batch

    @initialize(target=batches, limits=st.tuples(LIMITS, LIMITS), size=st.integers(1, 5))
    def begin(self, limits, size):
        """Each agency has a limit, and a batch that is being dialled."""
        batches = [self.create(agency, size, hours=None, attempts=2) for agency in (0, 1)]
        for agency, batch in enumerate(batches):
            self.limit_agency(agency, limits[agency])
            start_batch(batch)
        return multiple(*batches)

    @rule(agency=AGENCIES, limit=LIMITS)
    def limit_agency(self, agency, limit):
        Agency.objects.filter(pk=self.tenants[agency].agency.pk).update(max_concurrent_calls=limit)

    @precondition(lambda self: not self.deferred)
    @rule(agency=AGENCIES)
    def defer_account(self, agency):
        """The provider takes no calls of an account."""
        pk = self.tenants[agency].agency.pk
        # The key is read again, because the transaction of the previous sequence was rolled back.
        expire()
        assert defer_account(pk, timedelta(hours=1), provider=get_provider(pk))
        self.deferred.add(pk)

    @rule(agency=AGENCIES, key=st.sampled_from(["a-key", "another-key"]))
    def set_key(self, agency, key):
        """A new key ends the account's deferral."""
        tenant = self.tenants[agency]
        set_key(tenant, f"{key}-of-{tenant.agency.slug}")
        self.deferred.discard(tenant.agency.pk)

    @rule(agency=AGENCIES, verb=st.sampled_from([hold, release]))
    def hold_or_release(self, agency, verb):
        """A hold keeps its time until the agency is released."""
        tenant = self.tenants[agency]
        before = Agency.objects.get(pk=tenant.agency.pk).held_at
        result = verb(tenant)
        assert (result.held_at is None) is (verb is release)
        assert before is None or result.held_at in (None, before)
        (self.stopped.add if verb is hold else self.stopped.discard)(tenant.agency.pk)

    @rule(batch=batches)
    def start(self, batch):
        """A batch is started only when it is due and its agency is not on hold."""
        due = CallBatch.objects.due().filter(pk=batch.pk).exists() and batch.agency_id not in self.stopped
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
        return multiple(*filter(None, (self.claim_next(batch) for _ in range(3))))

    def claim_next(self, batch):
        """A call starts within the limits of the batch and the agency, to a number that the agency is not calling."""
        calls = CampaignContact.objects.filter(agency=batch.agency_id, status=ContactStatus.IN_PROGRESS)
        limit = Agency.objects.get(pk=batch.agency_id).max_concurrent_calls
        may_claim = (
            self.status_of(batch) == BatchStatus.PROCESSING
            and calls.filter(batch=batch).count() < MAX_CONCURRENT
            and (limit is None or calls.count() < limit)
            and batch.agency_id not in self.deferred | self.stopped
        )
        to_call = batch.contacts.dialable().filter(attempts__lt=F("max_attempts"))
        has_contact = to_call.exclude(phone_number__in=calls.values("phone_number")).exists()
        contact = claim_next_contact(batch)
        assert (contact is not None) is (may_claim and has_contact)
        return contact

    @rule(target=calls, contact=calls)
    def claim_again(self, contact):
        """Another service claims a contact in progress. A finished or paused batch and an agency on hold refuse it."""
        if not contact.in_this_attempt().exists():
            return multiple()
        is_held = contact.agency_id in self.stopped
        stopped = is_held or self.status_of(contact.batch) in (*FINAL, BatchStatus.PAUSED)
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
        reason = not_placed_note(f"HTTP {uuid4()}")
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
        assert contact.record_rejected(reason=not_placed_note("HTTP 422")) is in_progress
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

    @precondition(lambda self: CallBatch.objects.count() < MAX_BATCHES)
    @rule(target=batches, batch=batches)
    def replace(self, batch):
        """A cancelled batch is replaced once, with the contacts that were never called."""
        try:
            replacement = replace(batch).batch
        except (BatchNotCancelled, BatchAlreadyReplaced, NoContactsToReplace):
            return multiple()
        assert self.status_of(batch) == BatchStatus.CANCELLED
        assert replacement.contacts.count() <= batch.contacts.filter(status=ContactStatus.SKIPPED).count()
        assert not replacement.contacts.exclude(status=ContactStatus.PENDING, attempts=0).exists()
        return replacement

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

    @invariant()
    def no_agency_calls_a_number_twice_at_once(self):
        calls = CampaignContact.objects.filter(status=ContactStatus.IN_PROGRESS).values("agency", "phone_number")
        assert not calls.annotate(calls=Count("pk")).filter(calls__gt=1).exists()

    @invariant()
    def only_the_accounts_that_were_held_wait(self):
        assert set(Agency.objects.exclude(dial_after=None).values_list("pk", flat=True)) == self.deferred

    def status_of(self, batch):
        return CallBatch.objects.get(pk=batch.pk).status


THOROUGH = hypothesis.settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# A failure is usually found within a few examples.
UNTIL_FIRST_FAILURE = hypothesis.settings(
    THOROUGH, max_examples=200, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False
)


@pytest.fixture
def machine(harbour, bluebell, ultravox, settings):
    """The state machine with two agencies that have an account each."""
    settings.CREDENTIALS_KEYS, settings.ULTRAVOX_API_KEY = [Fernet.generate_key().decode()], ""
    for tenant in (harbour, bluebell):
        set_key(tenant, f"a-key-of-{tenant.agency.slug}")

    class BatchesOfTwoAgencies(Batches):
        tenants = (harbour, bluebell)

    return BatchesOfTwoAgencies


def test_counters_are_correct_and_final_statuses_are_kept_after_any_sequence_of_actions(machine):
    run_state_machine_as_test(machine, settings=THOROUGH)


@pytest.mark.parametrize(
    ("where", "name"),
    [(CallBatch, "adjust_counters"), (CallBatch, "_refuse_if_ended"), (claims, "_may_exceed_limit")],
    ids=["when counters are not adjusted", "when the status is not checked", "when limits are not checked"],
)
def test_control_the_state_machine_fails(machine, monkeypatch, where, name):
    monkeypatch.setattr(where, name, lambda *arguments, **changes: None)

    with pytest.raises((AssertionError, DatabaseFailed)):
        run_state_machine_as_test(machine, settings=UNTIL_FIRST_FAILURE)
