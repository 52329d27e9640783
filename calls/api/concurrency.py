"""Limits on slow requests, so that one agency cannot take a web server's process from the others."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response

from calls.api.errors import TooManyRequests

if TYPE_CHECKING:
    from calls.api.views import CallBatchViewSet

# Bodies of more bytes are processed one after the other.
LARGE_BODY_BYTES = 256 * 1024


class AgencyLimit:
    """At most ``places`` of the process for each agency. Who finds all of them taken waits for ``timeout`` seconds."""

    def __init__(self, places: int, timeout: float) -> None:
        self._places, self._timeout = places, timeout
        self._taken: Counter[UUID] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def place(self, agency_id: UUID) -> Iterator[None]:
        """
        Hold one of the agency's places.

        :raises TooManyRequests: none became free in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._taken[agency_id] < self._places, self._timeout):
                raise TooManyRequests
            self._taken[agency_id] += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken[agency_id] -= 1
                self._changed.notify_all()


# An agency may hold half of the threads (gunicorn.conf.py). A burst of fast requests passes within the half second;
# after it, the thread is needed for others.
_THREADS = AgencyLimit(8, timeout=0.5)
# Two slow queries of an agency leave the database time for others. A query takes at most 10 seconds.
_READS = AgencyLimit(2, timeout=10)
# Parsing a large body takes up to 400 MB, and keeps other threads of the process from running Python code.
_LARGE_BODIES = AgencyLimit(1, timeout=60)


def limited_per_agency(endpoint: Callable[..., Response]) -> Callable[..., Response]:
    """
    Decorate an endpoint whose requests may take seconds: an agency has at most eight of them in progress per process.

    Cancel, pause and resume have no limit, because an agency must be able to stop its calls at any time.

    :raises TooManyRequests: the agency has had eight such requests in progress for half a second.
    """

    @wraps(endpoint)
    def limited(view: CallBatchViewSet, request: Request) -> Response:
        with _THREADS.place(view.agency_id):
            return endpoint(view, request)

    return limited


def turn_to_read(agency_id: UUID) -> AbstractContextManager[None]:
    """
    Wait until fewer than two reads of the agency use the database.

    :raises TooManyRequests: that took ten seconds.
    """
    return _READS.place(agency_id)


@contextmanager
def turn_to_parse(agency_id: UUID, body: bytes) -> Iterator[None]:
    """
    Wait until no other large body of the agency is processed. A smaller body need not wait.

    :raises TooManyRequests: that took a minute.
    """
    if len(body) <= LARGE_BODY_BYTES:
        yield
        return
    with _LARGE_BODIES.place(agency_id):
        # The few objects that earlier requests left in reference cycles keep much memory from being reused.
        gc.collect()
        yield
