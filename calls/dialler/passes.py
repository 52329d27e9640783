"""A pass of the dialler: start the batches that are due and place their calls."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import connection

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.dialler.pacing import time_until_next_call
from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.starting import start_batch
from calls.exceptions import BatchReadFailed, CallsError
from calls.models import CallBatch

logger = logging.getLogger(__name__)

MAX_BATCHES = 10
# Calls that a pass places at the same time.
MAX_THREADS = 8
# Seconds after which a pass places no further call.
PASS_SECONDS = 50.0
# The longest that a pass waits for calls_per_minute to allow the next call.
LONGEST_WAIT = timedelta(seconds=5)


@dataclass(frozen=True)
class PassResult:
    """What a pass did. Calls that a busy provider did not take are in neither counter."""

    batches_processed: int
    calls_initiated: int
    calls_failed: int


def start_due_batches() -> Iterator[tuple[UUID, int]]:
    """
    Start at most 10 due batches, oldest first. Yield each batch's id and how many calls may start in it.

    :raises BatchReadFailed: the due batches could not be read.
    """
    with database_errors_as(BatchReadFailed), transaction_with_timeouts():
        due = list(CallBatch.objects.due().oldest_first().only("agency_id", "status")[:MAX_BATCHES])
    for batch in due:
        try:
            yield batch.pk, start_batch(batch)
        except CallsError as refusal:
            # The batch is locked or was deleted. The next pass tries again.
            logger.warning("dialler batch=%s outcome=%s", batch.pk, refusal.code)
        except Exception:
            # An unexpected error in one batch must not stop the others.
            logger.exception("dialler batch=%s", batch.pk)


def run_pass() -> PassResult:
    """
    Start the due batches and place as many calls as each batch has slots for.

    Passes and workers may run at the same time: the limits of a batch hold across all of them.

    :raises BatchReadFailed: the due batches could not be read.
    """
    deadline = time.monotonic() + PASS_SECONDS
    started = list(start_due_batches())
    # Return the connection to the pool while calls are placed.
    connection.close()
    # One call of each batch, then a second one of each, so that a large batch does not keep the others waiting.
    rounds = range(max((slots for _, slots in started), default=0))
    turns = [batch_id for turn in rounds for batch_id, slots in started if slots > turn]
    held: set[UUID] = set()
    with ThreadPoolExecutor(MAX_THREADS) as threads:
        outcomes = Counter(threads.map(lambda batch_id: _place_in_turn(batch_id, deadline, held), turns))
    return PassResult(len(started), outcomes[DialOutcome.PLACED], outcomes[DialOutcome.FAILED])


def _place_in_turn(batch_id: UUID, deadline: float, held: set[UUID]) -> DialOutcome:
    """
    Place one call of a batch, and wait first if only ``calls_per_minute`` delays it.

    Does nothing if the provider was busy for this batch earlier in the pass.
    """
    try:
        while time.monotonic() < deadline and batch_id not in held:
            outcome = place_next_call(batch_id)
            if outcome is DialOutcome.HELD:
                held.add(batch_id)
            wait = time_until_next_call(CallBatch(pk=batch_id)) if outcome is DialOutcome.NOTHING_CLAIMED else None
            if wait is None or wait > LONGEST_WAIT:
                return outcome
            time.sleep(wait.total_seconds())
        return DialOutcome.NOTHING_CLAIMED
    except CallsError as failed:
        logger.warning("dial batch=%s outcome=%s", batch_id, failed.code)
        return DialOutcome.NOTHING_CLAIMED
    except Exception:
        # An unexpected error in one batch must not stop the others.
        logger.exception("dial batch=%s", batch_id)
        return DialOutcome.FAILED
    finally:
        connection.close()
