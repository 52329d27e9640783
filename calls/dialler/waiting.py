"""What each batch waits for, and how many of its calls may start now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.db.models.lookups import IsNull

from calls.dialler.accounts import key_problem
from calls.dialler.pacing import MINUTE, calls_per_minute, max_concurrent
from calls.models import Agency, AgentMapping, CallBatch, CampaignContact
from calls.models.querysets import LAST_CALLED, CallBatchQuerySet
from calls.providers.base import LONGEST_PAUSE
from calls.statuses import STARTABLE, BatchStatus, ContactStatus


class WaitReason(Enum):
    """Why no call of a batch starts at the moment."""

    PAUSED = "paused"
    HELD = "held"
    SCHEDULED = "scheduled"
    OTHER_DIALLER = "other_dialler"
    PROVIDER = "provider"
    CREDENTIALS = "credentials"
    AGENT = "agent"
    CONCURRENCY = "concurrency"
    AGENCY = "agency"
    RATE = "rate"
    SAME_NUMBER = "same_number"
    RETRY = "retry"
    LAST_CALLS = "last_calls"

    @property
    def is_obstacle(self) -> bool:
        """Whether something other than a limit or a lack of contacts keeps a due batch from starting calls."""
        return self in (
            *(WaitReason.HELD, WaitReason.OTHER_DIALLER, WaitReason.PROVIDER),
            *(WaitReason.CREDENTIALS, WaitReason.AGENT),
        )


@dataclass(frozen=True)
class Waiting:
    """What a batch waits for. ``text`` is for people."""

    reason: WaitReason
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class DiallingState:
    """What decides whether a call of a batch may start, as it was when the batch was read."""

    now: datetime
    in_progress: int
    """Calls of the batch."""
    started: int
    """Calls of the batch that were started in the last minute."""
    agency_limit: int | None
    agency_in_progress: int
    """Calls of the agency, if it has a limit."""
    agency_dial_after: datetime | None
    agency_held_at: datetime | None
    has_agent: bool
    next_status: str | None
    """The status of the contact that can be claimed next, or None if there is none."""
    has_busy_number: bool
    """Whether a contact could be claimed if its number were not being called in another batch."""
    retry_last_attempt: datetime | None
    """When the contact whose retry is due first was last called, or None if no contact waits for a retry."""

    @classmethod
    def from_batch(cls, batch: CallBatch) -> DiallingState:
        """Return the state of a batch that :func:`with_dialling_state` has read."""
        return cls(**{name: getattr(batch, f"state_{name}") for name in cls.__annotations__})


class _Count(models.Subquery):
    """The number of rows of a subquery."""

    template = "(SELECT count(*) FROM (%(subquery)s) AS counted)"

    def __init__(self, queryset: models.QuerySet[Any]) -> None:
        super().__init__(queryset.order_by().values("pk"), output_field=models.IntegerField())


def with_dialling_state(batches: CallBatchQuerySet, *, called_before: datetime | None = None) -> CallBatchQuerySet:
    """
    Add the annotations for :class:`DiallingState`. They cost a few index look-ups for each batch that may be dialled.

    :param called_before: ignore contacts that were called since then.
    """
    now, contacts = Now(), CampaignContact.objects
    this_batch, agency = models.OuterRef("pk"), models.OuterRef("agency_id")
    to_call = contacts.filter(batch=this_batch).dialable().in_call_order().alias(last_called=LAST_CALLED)
    claimable = contacts.filter(batch=this_batch).claimable(called_before).in_call_order()
    resting = to_call.filter(last_called__gt=now - timedelta(seconds=settings.RETRY_PAUSE), last_called__lte=now)
    is_due = models.Q(status__in=STARTABLE)

    def of_agency(column: str) -> models.Subquery:
        # Not a join: a batch whose agency another service has deleted is still listed.
        return models.Subquery(Agency.objects.filter(pk=models.OuterRef("agency_id")).values(column)[:1])

    state = {
        "in_progress": _Count(contacts.with_call_in_progress(this_batch)),
        "started": _Count(contacts.attempted_within(MINUTE, this_batch)),
        "next_status": models.Subquery(claimable.with_free_number().values("status")[:1]),
        # Not EXISTS, for which PostgreSQL may read all contacts of all batches once and build a hash table.
        "has_busy_number": IsNull(models.Subquery(claimable.values("pk")[:1]), False),
        "retry_last_attempt": models.Subquery(resting.values("last_attempt_at")[:1]),
    }
    return batches.annotate(
        state_now=now,
        state_agency_limit=of_agency("max_concurrent_calls"),
        state_agency_in_progress=models.Case(
            models.When(
                is_due & models.Q(state_agency_limit__isnull=False),
                then=_Count(contacts.with_call_in_progress_of_agency(agency)),
            ),
            default=0,
        ),
        state_has_agent=models.Exists(AgentMapping.objects.filter(pk=models.OuterRef("agent_mapping_id"))),
        state_agency_dial_after=of_agency("dial_after"),
        state_agency_held_at=of_agency("held_at"),
        **{f"state_{name}": models.Case(models.When(is_due, then=value)) for name, value in state.items()},
    )


def due_batches(*, called_before: datetime | None = None) -> models.QuerySet[CallBatch]:
    """
    Return every due batch with its dialling state. Least recently called batches come first.

    :param called_before: as in :func:`with_dialling_state`.
    """
    calls = CampaignContact.objects.attempted(models.OuterRef("pk")).filter(last_attempt_at__lte=Now())
    latest = models.Subquery(calls.order_by("-last_attempt_at").values("last_attempt_at")[:1])
    due = with_dialling_state(CallBatch.objects.due(), called_before=called_before).annotate(latest_call=latest)
    limits, times = ("calls_per_minute", "max_concurrent"), ("scheduled_for", "started_at", "dial_after")
    least_recently_called_first = (models.F("latest_call").asc(nulls_first=True), "created_at", "id")
    return due.only("agency_id", "status", *limits, *times).order_by(*least_recently_called_first)


def waiting_for(batch: CallBatch) -> Waiting | None:
    """
    Return why no call of the batch starts at the moment, or None if one can or if the batch waits for nothing.

    :param batch: from :func:`with_dialling_state`.
    :raises BatchReadFailed: the agency's key could not be read.
    """
    state = DiallingState.from_batch(batch)
    if batch.status == BatchStatus.PAUSED:
        return Waiting(WaitReason.PAUSED, "the batch is paused")
    if batch.status not in STARTABLE:
        return None
    if state.agency_held_at is not None:
        return Waiting(WaitReason.HELD, f"the agency has been on hold since {_shown(state.agency_held_at)}")
    if batch.scheduled_for is not None and batch.scheduled_for > state.now:
        return Waiting(WaitReason.SCHEDULED, f"the batch starts at {_shown(batch.scheduled_for)}")
    return _obstacle(batch, state) or _limit(batch, state) or _contacts(batch, state)


def _obstacle(batch: CallBatch, state: DiallingState) -> Waiting | None:
    if batch.dial_after is not None and batch.dial_after > state.now + LONGEST_PAUSE:
        return Waiting(WaitReason.OTHER_DIALLER, "another dialler keeps the batch")
    until = max(time for time in (batch.dial_after, state.agency_dial_after, state.now) if time is not None)
    if until > state.now:
        return Waiting(WaitReason.PROVIDER, f"the provider asked to wait until {_shown(until)}")
    if not state.has_agent:
        return Waiting(WaitReason.AGENT, "the batch's agent mapping was deleted")
    problem = key_problem(batch.agency_id)
    return Waiting(WaitReason.CREDENTIALS, problem) if problem else None


def _limit(batch: CallBatch, state: DiallingState) -> Waiting | None:
    if state.in_progress >= max_concurrent(batch):
        most = f"{_calls(state.in_progress)} in progress, the most this batch may have"
        return Waiting(WaitReason.CONCURRENCY, most)
    if state.agency_limit is not None and state.agency_in_progress >= state.agency_limit:
        most = f"{_calls(state.agency_in_progress)} in progress in all batches, the most the agency may have"
        return Waiting(WaitReason.AGENCY, most)
    if state.started >= calls_per_minute(batch):
        most = f"{_calls(state.started)} started in the last minute, the most this batch may start"
        return Waiting(WaitReason.RATE, most)
    return None


def _contacts(batch: CallBatch, state: DiallingState) -> Waiting | None:
    if state.next_status is not None or needs_start(batch, state):
        return None
    if state.has_busy_number:
        return Waiting(WaitReason.SAME_NUMBER, "the next numbers are being called in another batch of the agency")
    if state.retry_last_attempt is not None:
        due = state.retry_last_attempt + timedelta(seconds=settings.RETRY_PAUSE)
        return Waiting(WaitReason.RETRY, f"no contact is due before {_shown(due)}")
    if state.in_progress:
        last = "call" if state.in_progress == 1 else f"{state.in_progress} calls"
        return Waiting(WaitReason.LAST_CALLS, f"the last {last} in progress")
    return None


def needs_start(batch: CallBatch, state: DiallingState) -> bool:
    """
    Return whether the batch has not been started, or has contacts that its start left pending.

    A batch that was resumed after its scheduled time is ``processing`` but was never started.
    """
    is_started = batch.status == BatchStatus.PROCESSING and batch.started_at is not None
    return not is_started or state.next_status == ContactStatus.PENDING


def has_nothing_to_call(state: DiallingState) -> bool:
    """
    Return whether no contact can be claimed now or after its rest.

    Such a batch may be finished, or may have contacts that another service has queued in a way that keeps them from
    being called.
    """
    return state.next_status is None and state.retry_last_attempt is None and not state.has_busy_number


def free_slots(batch: CallBatch, state: DiallingState) -> int:
    """Return how many calls of the batch may start now, by its limits and its agency's."""
    slots = [max_concurrent(batch) - state.in_progress, calls_per_minute(batch) - state.started]
    if state.agency_limit is not None:
        slots.append(state.agency_limit - state.agency_in_progress)
    return max(0, min(slots))


def _calls(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"


def _shown(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
