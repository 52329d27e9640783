"""What the provider says of calls, as it came."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from calls.exceptions import FieldInvalid, FieldRequired
from calls.models.agency import Agency
from calls.parsing import is_call_id, parse_time
from calls.statuses import CallStatus, Outcome

# Of several events of a call, the earlier here is believed where they differ: the later in a call's life.
KNOWN = ("call.billed", "call.ended", "call.joined", "call.started")
# Not that nobody answered, but that it went wrong.
FAILURES = frozenset({"connection_error", "system_error"})
MAX_DURATION = 2**31 - 1
# More digits than Python takes for a whole number are JSON all the same.
_read = partial(json.loads, parse_int=float)


class WebhookEvent(models.Model):
    """
    One event that the provider has delivered, kept as it came, whether or not it meant anything to us.

    Of each call each kind of event is there once, however often it was delivered.
    """

    # No constraint in the database, since the agencies may be another service's, which may then not delete one.
    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    event = models.TextField()
    ultravox_call_id = models.TextField()
    # What makes it the same event when it is delivered again.
    identity = models.TextField()
    # JSON, as text: jsonb does not take all that is JSON.
    body = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        db_table = "call_webhook_events"
        constraints = [
            # For a delivery that is repeated, also at the same moment: the second waits for the first.
            models.UniqueConstraint(name="webhook_event_once", fields=["agency", "identity"]),
        ]
        indexes = [
            # For whoever puts together what was heard of a call.
            models.Index(name="webhook_event_of_call", fields=["ultravox_call_id"]),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.ultravox_call_id}"

    @classmethod
    def of(cls, agency: Agency, body: bytes) -> WebhookEvent:
        """
        The event that a body holds, not yet stored.

        :raises FieldInvalid: the body is no JSON object.
        :raises FieldRequired: there is no ``event`` in it.
        """
        try:
            text = body.decode("utf-8-sig")
            said = _read(text)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise FieldInvalid("body", "must be a JSON object")
        event, call = _text(said.get("event")), said.get("call")
        if event is None:
            raise FieldRequired("event")
        call_id = _text(call.get("callId")) if isinstance(call, dict) else None
        if not is_call_id(call_id):
            call_id = ""
        known = event in KNOWN and call_id
        identity = f"{event} {call_id}" if known else hashlib.sha256(body).hexdigest()
        return cls(agency=agency, event=event, ultravox_call_id=call_id, identity=identity, body=text)

    def store(self) -> None:
        """Store it, unless it is there already."""
        type(self).objects.get_or_create(
            agency_id=self.agency_id,
            identity=self.identity,
            defaults={"event": self.event, "ultravox_call_id": self.ultravox_call_id, "body": self.body},
        )

    @property
    def call(self) -> dict[str, Any]:
        """The call as the provider had it then."""
        try:
            call = _read(self.body).get("call")
        except RecursionError:
            call = None
        return call if isinstance(call, dict) else {}


@dataclass(frozen=True)
class Heard:
    """What is known of a call from all that was heard of it, whatever the order in which it came."""

    status: CallStatus | None = None
    started_at: datetime | None = None
    joined_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    duration_seconds: int | None = None
    short_summary: str | None = None

    @classmethod
    def of(cls, events: Iterable[WebhookEvent]) -> Heard:
        known = {event.event: event for event in events if event.event in KNOWN}
        calls = [known[name].call for name in KNOWN if name in known]
        started, joined, ended = (_first(calls, name, _time) for name in ("created", "joined", "ended"))
        if "call.ended" in known:
            ended = ended or known["call.ended"].created_at
        elif "call.billed" not in known:
            # Whatever an earlier event says of its end: that comes with an event of its own.
            ended = None
        if "call.joined" in known:
            joined = joined or known["call.joined"].created_at
        if ended and joined:
            seconds = min(max(0, int((ended - joined).total_seconds())), MAX_DURATION)
        return cls(
            status=(CallStatus.ENDED if ended else CallStatus.JOINED if joined else None),
            started_at=started,
            joined_at=joined,
            ended_at=ended,
            end_reason=_first(calls, "endReason", _text),
            duration_seconds=seconds if ended and joined else None,
            short_summary=_first(calls, "shortSummary", _text),
        )

    @property
    def outcome(self) -> Outcome:
        """How a call that has ended went."""
        if self.end_reason in FAILURES:
            return Outcome.FAILED
        return Outcome.ANSWERED if self.joined_at and self.end_reason != "unjoined" else Outcome.NO_ANSWER


def _first(calls: list[dict[str, Any]], name: str, read: Any) -> Any:
    return next((value for value in (read(call.get(name)) for call in calls) if value is not None), None)


def _time(value: Any) -> datetime | None:
    try:
        return parse_time(value)
    except ValueError:
        return None


def _text(value: Any) -> str | None:
    """What can be stored of it: JSON has characters that the database does not take."""
    return value.replace("\0", "").encode(errors="replace").decode() if isinstance(value, str) and value else None
