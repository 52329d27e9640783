"""Webhook events as the provider sends them."""

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

WEBHOOK_SECRET = "the-secret-of-the-url"
SIGNING_SECRET = "a-signing-secret"
CREATED = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
JOINED, ENDED = CREATED + timedelta(seconds=10), CREATED + timedelta(seconds=55)


def call_object(call_id, event="call.ended", reason="hangup", *, joined=True, sip=None):
    """
    Return the call as the provider describes it in an event of this type.

    ``sip`` is the reason in the SIP details, without its prefix.
    """
    has_ended = event in ("call.ended", "call.billed")
    return {
        "callId": call_id,
        "created": CREATED.isoformat(),
        "joined": JOINED.isoformat() if joined and event != "call.started" else None,
        "ended": ENDED.isoformat() if has_ended else None,
        "endReason": reason if has_ended else None,
        "shortSummary": "They talked." if has_ended and joined else None,
        "sipDetails": {"billedDuration": None, "terminationReason": f"SIP_TERMINATION_{sip}"} if sip else None,
    }


def event_body(event, call):
    return json.dumps({"event": event, "call": call})


def signature_headers(body, *, at=None, secret=SIGNING_SECRET, other_signatures=()):
    """Return the headers of a signed delivery."""
    at = (at or datetime.now(UTC)).isoformat()
    signature = hmac.new(secret.encode(), body.encode() + at.encode(), hashlib.sha256).hexdigest()
    return {
        "X-Ultravox-Webhook-Timestamp": at,
        "X-Ultravox-Webhook-Signature": ", ".join([*other_signatures, signature]),
    }
