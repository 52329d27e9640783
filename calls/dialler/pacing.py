"""The limits of a batch: how many calls may be in progress, and how many may start in a minute."""

from __future__ import annotations

from datetime import timedelta

from calls.models import CallBatch

MINUTE = timedelta(minutes=1)
# The defaults of the columns, for rows in which another service left them NULL.
DEFAULT_CALLS_PER_MINUTE = 30
DEFAULT_MAX_CONCURRENT = 10


def calls_per_minute(batch: CallBatch) -> int:
    """Return how many calls of the batch may start in any 60 seconds."""
    return DEFAULT_CALLS_PER_MINUTE if batch.calls_per_minute is None else batch.calls_per_minute


def max_concurrent(batch: CallBatch) -> int:
    """Return how many calls of the batch may be in progress."""
    return DEFAULT_MAX_CONCURRENT if batch.max_concurrent is None else batch.max_concurrent
