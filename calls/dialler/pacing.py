"""How many calls of a batch may start now, and when the next one may start."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchReadFailed
from calls.models import CallBatch, CampaignContact
from calls.statuses import BatchStatus

MINUTE = timedelta(minutes=1)
# The defaults of the columns, for rows in which another service left them NULL.
DEFAULT_CALLS_PER_MINUTE = 30
DEFAULT_MAX_CONCURRENT = 10


def may_start_call(batch: CallBatch) -> bool:
    """
    Return whether one more call of a locked batch may start now.

    ``max_concurrent`` limits the calls in progress, ``calls_per_minute`` the calls started in any 60 seconds.
    """
    return free_slots(batch) > 0 and _started_last_minute(batch).count() < _calls_per_minute(batch)


def free_slots(batch: CallBatch) -> int:
    """Return how many calls a pass may start in this batch."""
    in_progress = CampaignContact.objects.with_call_in_progress(batch.pk).count()
    return max(0, min(_calls_per_minute(batch), _max_concurrent(batch) - in_progress))


@database_errors_as(BatchReadFailed)
def time_until_next_call(batch: CallBatch) -> timedelta | None:
    """
    Return how long ``calls_per_minute`` delays the next call, or None if it does not delay it.

    :raises BatchReadFailed: a database error or timeout.
    """
    with transaction_with_timeouts():
        current = CallBatch.objects.due().filter(pk=batch.pk, status=BatchStatus.PROCESSING).first()
        if current is None:
            return None
        if CampaignContact.objects.with_call_in_progress(current.pk).count() >= _max_concurrent(current):
            return None
        if not current.contacts.claimable().in_call_order()[:1].count():
            return None
        started = _started_last_minute(current)
        if not 0 < _calls_per_minute(current) <= started.count():
            return None
        remaining = models.Min("last_attempt_at") + MINUTE - Now()
        wait = started.aggregate(wait=models.ExpressionWrapper(remaining, models.DurationField()))["wait"]
        return max(wait or timedelta(0), timedelta(0))


def _started_last_minute(batch: CallBatch) -> models.QuerySet[CampaignContact]:
    return CampaignContact.objects.attempted_within(MINUTE, batch.pk)


def _calls_per_minute(batch: CallBatch) -> int:
    return DEFAULT_CALLS_PER_MINUTE if batch.calls_per_minute is None else batch.calls_per_minute


def _max_concurrent(batch: CallBatch) -> int:
    return DEFAULT_MAX_CONCURRENT if batch.max_concurrent is None else batch.max_concurrent
