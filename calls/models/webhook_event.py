"""Events that the provider delivers, and the state of a call that follows from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from calls.exceptions import FieldInvalid, FieldRequired
from calls.models.agency import Agency
from calls.models.retention import RetainedQuerySet
from calls.parsing import is_call_id, parse_time, parse_uuid
from calls.statuses import CallStatus, Outcome

# The events that have an effect. Where two events of a call differ, the one that is listed first wins.
KNOWN_EVENTS = ("call.billed", "call.ended", "call.joined", "call.started")
# End reasons of calls that failed, as opposed to calls that were not answered.
FAILURES = frozenset({"connection_error", "system_error"})
# How the carrier ended a call that was never joined, where that says more than the end reason "unjoined".
SIP_PREFIX = "SIP_TERMINATION_"
SIP_INVALID_NUMBER = f"{SIP_PREFIX}INVALID_NUMBER"
SIP_UNINFORMATIVE = frozenset({f"{SIP_PREFIX}NORMAL", f"{SIP_PREFIX}UNKNOWN"})
MAX_DURATION = 2**31 - 1
# Integers with more digits than Python accepts are valid JSON, so all integers are read as floats.
_load_json = partial(json.loads, parse_int=float)


class WebhookEventQuerySet(RetainedQuerySet["WebhookEvent"]):
    def about_contact(self, contact_id: UUID) -> WebhookEventQuerySet:
        """Return the events of calls whose metadata names this contact, in any of its attempts."""
        return self.filter(contact_id=contact_id).exclude(ultravox_call_id="")


class WebhookEvent(models.Model):
    """
    An event as the provider delivered it, including events of unknown types.

    Each type of event is stored once for each call, however often it was delivered. Kept for
    ``WEBHOOK_EVENT_RETENTION`` days.
    """

    # No database constraint, because it would keep another service that owns the agencies from deleting an agency.
    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    event = models.TextField()
    ultravox_call_id = models.TextField()
    # The contact that the call's metadata names, whether or not there is such a contact.
    contact_id = models.UUIDField(null=True)
    # Equal for two deliveries of the same event.
    identity = models.TextField()
    # JSON as text, because jsonb rejects some valid JSON.
    body = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    objects = WebhookEventQuerySet.as_manager()

    class Meta:
        db_table = "call_webhook_events"
        constraints = [
            # For repeated deliveries. If two arrive at the same moment, the second waits for the first.
            models.UniqueConstraint(name="webhook_event_once", fields=["agency", "identity"]),
        ]
        indexes = [
            # For CallState, which reads all events of a call.
            models.Index(name="webhook_event_of_call", fields=["ultravox_call_id"]),
            # For the dialler and the sweep, which look for events of calls that were not recorded.
            models.Index(
                name="webhook_event_of_contact", fields=["contact_id"], condition=models.Q(contact_id__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.ultravox_call_id}"

    @classmethod
    def from_body(cls, agency: Agency, body: bytes) -> WebhookEvent:
        """
        Parse a request body. The event is not stored yet.

        :raises FieldInvalid: the body is not a JSON object.
        :raises FieldRequired: the body has no ``event``.
        """
        try:
            text = body.decode("utf-8-sig")
            data = _load_json(text)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise FieldInvalid("body", "must be a JSON object")
        event, call = _text(data.get("event")), data.get("call")
        if event is None:
            raise FieldRequired("event")
        call_id = _text(call.get("callId")) if isinstance(call, dict) else None
        if not is_call_id(call_id):
            call_id = ""
        known = event in KNOWN_EVENTS and call_id
        identity = f"{event} {call_id}" if known else hashlib.sha256(body).hexdigest()
        return cls(
            agency=agency,
            event=event,
            ultravox_call_id=call_id,
            contact_id=_contact_id(call),
            identity=identity,
            body=text,
        )

    def store(self) -> None:
        """Store the event, unless it was delivered before."""
        type(self).objects.bulk_create([self], ignore_conflicts=True)

    @property
    def call(self) -> dict[str, Any]:
        """The call as the event describes it."""
        try:
            call = _load_json(self.body).get("call")
        except RecursionError:
            call = None
        return call if isinstance(call, dict) else {}


@dataclass(frozen=True)
class CallState:
    """
    The state of a call according to all of its events, in whatever order they arrived.

    ``sip_reason`` is how the carrier ended a call that was never joined, if the provider says so.
    """

    status: CallStatus | None = None
    started_at: datetime | None = None
    joined_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    sip_reason: str | None = None
    duration_seconds: int | None = None
    short_summary: str | None = None

    @classmethod
    def from_events(cls, events: Iterable[WebhookEvent]) -> CallState:
        by_name = {event.event: event for event in events if event.event in KNOWN_EVENTS}
        calls = [by_name[name].call for name in KNOWN_EVENTS if name in by_name]
        started, joined, ended = (_first(calls, name, _time) for name in ("created", "joined", "ended"))
        if "call.ended" in by_name:
            ended = ended or by_name["call.ended"].created_at
        elif "call.billed" not in by_name:
            # Ignore ``ended`` in call.started and call.joined events.
            ended = None
        if "call.joined" in by_name:
            joined = joined or by_name["call.joined"].created_at
        if ended and joined:
            seconds = min(max(0, int((ended - joined).total_seconds())), MAX_DURATION)
        return cls(
            status=(CallStatus.ENDED if ended else CallStatus.JOINED if joined else None),
            started_at=started,
            joined_at=joined,
            ended_at=ended,
            end_reason=_first(calls, "endReason", _text),
            sip_reason=_first(calls, "sipDetails", _sip_reason) if ended and not joined else None,
            duration_seconds=seconds if ended and joined else None,
            short_summary=_first(calls, "shortSummary", _text),
        )

    @property
    def columns(self) -> dict[str, Any]:
        """The values for the call's row. What is not known yet is left out."""
        values = {name: value for name, value in vars(self).items() if name != "sip_reason" and value is not None}
        return values if self.sip_reason is None else values | {"end_reason": self.sip_reason}

    @property
    def is_number_invalid(self) -> bool:
        """Whether the carrier ended the call because there is no such number."""
        return self.sip_reason == SIP_INVALID_NUMBER

    @property
    def outcome(self) -> Outcome:
        """The outcome of a call that has ended."""
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


def _sip_reason(value: Any) -> str | None:
    reason = _text(value.get("terminationReason")) if isinstance(value, dict) else None
    return None if reason in SIP_UNINFORMATIVE else reason


def _contact_id(call: Any) -> UUID | None:
    metadata = call.get("metadata") if isinstance(call, dict) else None
    try:
        return parse_uuid(metadata.get("contact_id")) if isinstance(metadata, dict) else None
    except ValueError:
        return None


def _text(value: Any) -> str | None:
    """Return a string that PostgreSQL can store, or None if ``value`` is not a string or is empty."""
    return value.replace("\0", "").encode(errors="replace").decode() if isinstance(value, str) and value else None
