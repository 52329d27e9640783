"""A provider that only simulates calls, for demos and tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from uuid_utils.compat import uuid7

from calls.providers.base import CallRequest, ProviderUnavailable, Snapshot


class SimulatedProvider:
    """
    Simulate calls of 20 seconds. One call in five is not answered.

    Nothing is stored: the state of a call follows from its id and the time. Unless DEBUG is on, :meth:`find` cannot
    say that there is no call, because another process may have placed a real one.
    """

    lookup_after = timedelta(seconds=20)

    _PREFIX = "simulated-"
    _RINGS = timedelta(seconds=5)
    _LASTS = timedelta(seconds=20)

    @classmethod
    def new_id(cls) -> str:
        """Return the id of a call that begins now."""
        return f"{cls._PREFIX}{uuid7()}"

    def place(self, request: CallRequest) -> str:
        return self.new_id()

    def find(self, contact_id: UUID, attempt: int, *, since: datetime) -> str | None:
        if not settings.DEBUG:
            raise ProviderUnavailable("calls are simulated: no key for Ultravox is set")
        return None

    def look_up(self, call_id: str) -> Snapshot | None:
        if not call_id.startswith(self._PREFIX):
            return None
        number = UUID(call_id.removeprefix(self._PREFIX)).int
        created = datetime.fromtimestamp((number >> 80) / 1000, UTC)
        answered = number % 5 != 0
        call: dict[str, Any] = {"callId": call_id, "created": created.isoformat(), "joined": None, "ended": None}
        if answered and timezone.now() >= created + self._RINGS:
            call["joined"] = (created + self._RINGS).isoformat()
        if timezone.now() >= created + self._LASTS:
            call |= {
                "ended": (created + self._LASTS).isoformat(),
                "endReason": "hangup" if answered else "unjoined",
            }
        return call
