"""A pass of the dialler, for cron services: start the due batches and place their calls."""

from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import connection

from calls.dialler.placing import DialOutcome, place_next_call
from calls.dialler.rounds import Turn, next_round
from calls.dialler.starting import start_batch
from calls.exceptions import CallsError

logger = logging.getLogger(__name__)

# Calls that a pass places at the same time.
MAX_THREADS = 8
# Seconds after which a pass places no further call.
PASS_SECONDS = 50.0
# The longest that a pass waits until calls_per_minute allows the next call, and how often it looks, in seconds.
LONGEST_WAIT = 5.0
POLL_INTERVAL = 0.5


@dataclass(frozen=True)
class PassResult:
    """What a pass did. Calls that a busy provider did not take are in neither counter of calls."""

    batches_processed: int
    calls_initiated: int
    calls_failed: int


def run_pass() -> PassResult:
    """
    Start the due batches and place their calls, round by round, until no call can start or 50 seconds are over.

    A pass asks the provider to call a contact at most once. Passes and workers may run at the same time: the limits of
    a batch hold across all of them.

    :raises BatchReadFailed: the due batches could not be read.
    """
    deadline = time.monotonic() + PASS_SECONDS
    batches: set[UUID] = set()
    outcomes: Counter[DialOutcome] = Counter()
    nothing_claimed: set[UUID] = set()
    waited = 0.0
    current = next_round(include_empty=True)
    began = current.read_at
    with ThreadPoolExecutor(MAX_THREADS) as threads:
        while time.monotonic() < deadline:
            # Return the connection to the pool while calls are placed.
            connection.close()
            batches |= {turn.batch_id for turn in current.turns}
            list(threads.map(_start, [turn for turn in current.turns if turn.start]))
            # One call of each batch, then a second one of each.
            most = max((turn.calls for turn in current.turns), default=0)
            calls = [turn for number in range(most) for turn in current.turns if turn.calls > number]
            # A batch that is locked keeps a thread waiting for seconds, so it gets one try in a round.
            failed: set[UUID] = set()
            placed = list(threads.map(partial(_place, called_before=began, deadline=deadline, failed=failed), calls))
            outcomes += Counter(placed)
            claimed = {
                turn.batch_id
                for turn, outcome in zip(calls, placed, strict=True)
                if outcome is not DialOutcome.NOTHING_CLAIMED
            }
            # Skip a batch for the rest of the pass if none of its contacts could be claimed. They may be locked.
            nothing_claimed |= {turn.batch_id for turn in calls} - claimed
            if claimed:
                waited = 0.0
            elif not current.turns:
                if not current.waits_for_rate or waited >= LONGEST_WAIT:
                    break
                time.sleep(POLL_INTERVAL)
                waited += POLL_INTERVAL
            current = next_round(include_empty=False, skip=nothing_claimed, called_before=began)
    return PassResult(len(batches), outcomes[DialOutcome.PLACED], outcomes[DialOutcome.FAILED])


def _start(turn: Turn) -> None:
    try:
        start_batch(turn.batch)
    except CallsError as refusal:
        # The batch is locked or was deleted. The next pass tries again.
        logger.warning("dialler batch=%s outcome=%s", turn.batch_id, refusal.code)
    except Exception:
        # An unexpected error in one batch must not stop the others.
        logger.exception("dialler batch=%s", turn.batch_id)
    finally:
        connection.close()


def _place(turn: Turn, *, called_before: datetime | None, deadline: float, failed: set[UUID]) -> DialOutcome:
    """Place a call, unless the time is over or the batch is in ``failed``. Add the batch to it if it fails."""
    try:
        if time.monotonic() > deadline or turn.batch_id in failed:
            return DialOutcome.NOTHING_CLAIMED
        return place_next_call(turn.batch, called_before=called_before)
    except CallsError as error:
        logger.warning("dial batch=%s outcome=%s", turn.batch_id, error.code)
        failed.add(turn.batch_id)
        return DialOutcome.NOTHING_CLAIMED
    except Exception:
        # An unexpected error in one batch must not stop the others.
        logger.exception("dial batch=%s", turn.batch_id)
        return DialOutcome.FAILED
    finally:
        connection.close()
