"""Another service that claims contacts without any lock, and keeps each claim open for a moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import psycopg

from calls.tests.support.concurrency import CLAIM_BY_SQL
from calls.tests.support.factories import plain_connection

# The longest time between a claim and its commit, in seconds.
MAX_OPEN = 0.01


class OtherClaimer(threading.Thread):
    """
    Claim the contacts in turn by their ids, whatever status they have, until ``stopped`` is set.

    ``claimed`` and ``refused`` count the claims that were committed and those that a guard refused.
    """

    def __init__(self, contact_ids: Sequence[Any], stopped: threading.Event) -> None:
        super().__init__(daemon=True)
        self._contact_ids, self._stopped = contact_ids, stopped
        self.claimed = self.refused = 0

    def run(self) -> None:
        with plain_connection() as plain:
            for contact_id in cycle(self._contact_ids):
                if self._stopped.is_set():
                    return
                try:
                    with plain.transaction():
                        plain.execute(CLAIM_BY_SQL, [contact_id])
                        time.sleep(random.uniform(0, MAX_OPEN))
                    self.claimed += 1
                except psycopg.errors.CheckViolation:
                    self.refused += 1


@contextmanager
def other_claimers(contact_ids: Sequence[Any], *, number: int = 3) -> Iterator[list[OtherClaimer]]:
    """Run claimers that share the contacts."""
    stopped = threading.Event()
    claimers = [OtherClaimer(contact_ids[index::number], stopped) for index in range(number)]
    for claimer in claimers:
        claimer.start()
    try:
        yield claimers
    finally:
        stopped.set()
        for claimer in claimers:
            claimer.join()
