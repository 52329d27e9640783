"""Ultravox, a voice provider that calls over Telnyx."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from uuid import UUID
from weakref import finalize

import httpx
from django.utils import timezone

from calls.parsing import RESERVED_PREFIX, is_call_id, is_reserved_key
from calls.providers.base import (
    DEFAULT_PAUSE,
    LONGEST_PAUSE,
    AllCallsRefused,
    CallRequest,
    PlacementRefused,
    PlacementUnclear,
    ProviderBusy,
    ProviderUnavailable,
    ProviderUnreachable,
    Snapshot,
    belongs_to_attempt,
)
from calls.providers.refusals import names_number, refusal_reason

logger = logging.getLogger(__name__)

# These answers are about the account or the agent, not about the contact: a wrong key, no credit, a deleted agent.
_ALL_CALLS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND)
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_MAX_PAGES = 10


@cache
def _ssl_context() -> ssl.SSLContext:
    """Return one context for all clients of the process. Each takes long to create, and much memory."""
    return httpx.create_ssl_context()


class UltravoxProvider:
    """
    A client of the Ultravox API for one key, with one connection pool for all threads of the process.

    The connections are closed when nothing refers to the provider any more, or earlier by :meth:`close`.
    """

    lookup_after = timedelta(hours=1)

    def __init__(self, url: str, key: str, timeout: float) -> None:
        self._timeout = timeout
        self._client = httpx.Client(
            base_url=url,
            auth=_KeyAuth(key),
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            verify=_ssl_context(),
        )
        # A request in progress refers to the provider, so its connection is not closed under it.
        self._finalizer = finalize(self, self._client.close)

    def close(self) -> None:
        """Close the connection pool. The provider cannot be used afterwards."""
        self._finalizer()

    def place(self, request: CallRequest) -> str:
        body: dict[str, Any] = {
            "medium": {"telnyx": {"outgoing": {"to": request.to, "from": request.caller_id}}},
            "metadata": _without_reserved_keys(request.metadata),
        }
        if request.first_speaker_text and request.first_speaker_text.strip():
            # Even an empty setting would replace the agent's own.
            body["firstSpeakerSettings"] = {"agent": {"text": request.first_speaker_text}}
        address = f"/api/agents/{quote(request.agent_id, safe='')}/calls"
        try:
            response = self._client.post(address, json=body, extensions={"trace": self._refuse_to_send_late()})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ProviderUnreachable(type(error).__name__) from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            # Nothing was sent.
            raise ProviderBusy(type(error).__name__) from error
        except httpx.HTTPError as error:
            raise PlacementUnclear(type(error).__name__) from error
        return _call_id_of(response, request)

    def _refuse_to_send_late(self) -> Callable[[str, Mapping[str, Any]], None]:
        """
        Return a trace hook that stops a request that would be sent after the timeout.

        DNS and connection attempts may take any time. The sweep looks for the call after four timeouts, and relies on
        finding it if it was placed.
        """
        until = time.monotonic() + self._timeout

        def check(event: str, info: Mapping[str, Any]) -> None:
            if event.endswith(".send_request_headers.started") and time.monotonic() > until:
                raise ProviderUnreachable("connecting took too long")

        return check

    def find(self, contact_id: UUID, attempt: int, *, since: datetime) -> str | None:
        parameters: Mapping[str, str] = {"metadata.contact_id": str(contact_id), "pageSize": "100"}
        for _ in range(_MAX_PAGES):
            page = self._get("/api/calls", parameters)
            if page is None:
                raise ProviderUnavailable("HTTP 404 for the list of calls")
            for call in _results(page):
                metadata = call.get("metadata")
                if not isinstance(metadata, dict) or metadata.get("contact_id") != str(contact_id):
                    # The filter was ignored, so a call that is not in this list may still exist.
                    raise ProviderUnavailable("the list of calls is not filtered by metadata")
                if belongs_to_attempt(call, attempt, since):
                    return str(call["callId"])
            if not page.get("next"):
                return None
            try:
                parameters = httpx.URL(str(page["next"])).params
            except (httpx.InvalidURL, ValueError) as error:
                raise ProviderUnavailable("the list of calls has an invalid link to its next page") from error
        raise ProviderUnavailable("the list of calls does not end")

    def look_up(self, call_id: str) -> Snapshot | None:
        return self._get(f"/api/calls/{quote(call_id, safe='')}")

    def _get(self, address: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        try:
            response = self._client.get(address, params=parameters)
            if response.status_code == HTTPStatus.NOT_FOUND:
                return None
            response.raise_for_status()
            answer = response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise ProviderUnavailable(type(error).__name__) from error
        if not isinstance(answer, dict):
            raise ProviderUnavailable("the answer is not a JSON object")
        return answer


class _KeyAuth(httpx.Auth):
    """Sends the key with each request. The client's own headers would show it in their ``repr``."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["X-API-Key"] = self._key
        yield request


def _without_reserved_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out keys that the provider would refuse. A create refuses them too, but other services store contacts."""
    allowed = {key: value for key, value in metadata.items() if not is_reserved_key(key)}
    if dropped := len(metadata) - len(allowed):
        # Neither keys nor values: they may be personal data.
        logger.warning(
            "contact=%s: keys of custom_data not sent, because they begin with %s: %d",
            *(metadata.get("contact_id"), RESERVED_PREFIX, dropped),
        )
    return allowed


def _call_id_of(response: httpx.Response, request: CallRequest) -> str:
    status = response.status_code
    if response.is_success:
        try:
            call_id = response.json()["callId"]
        except (ValueError, KeyError, TypeError, RecursionError):
            call_id = None
        if not is_call_id(call_id):
            raise PlacementUnclear(f"HTTP {status} without a callId")
        return call_id
    if status in _BUSY:
        raise ProviderBusy(f"HTTP {status}", _retry_after(response))
    if response.has_redirect_location:
        raise ProviderBusy(f"HTTP {status}: check ULTRAVOX_API_URL")
    if response.is_server_error or status == HTTPStatus.REQUEST_TIMEOUT:
        raise PlacementUnclear(f"HTTP {status}")
    raise _refusal(response, request)


def _refusal(response: httpx.Response, request: CallRequest) -> PlacementRefused | AllCallsRefused:
    secrets = (response.request.headers["X-API-Key"], request.to, request.caller_id)
    reason = refusal_reason(response, secrets)
    if response.status_code in _ALL_CALLS:
        return AllCallsRefused(reason)
    is_about_number = names_number(response, request.to)
    if response.status_code == HTTPStatus.FORBIDDEN and not is_about_number:
        return AllCallsRefused(reason, unless_others_accepted=True)
    return PlacementRefused(reason, names_number=is_about_number)


def _retry_after(response: httpx.Response) -> timedelta:
    """Return the pause that ``Retry-After`` asks for, which is a number of seconds or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value[:9]), int(LONGEST_PAUSE.total_seconds())))
    try:
        until = parsedate_to_datetime(value)
        return (until if until.tzinfo else until.replace(tzinfo=UTC)) - timezone.now()
    except (ValueError, OverflowError):
        return DEFAULT_PAUSE


def _results(page: dict[str, Any]) -> list[dict[str, Any]]:
    results = page.get("results")
    if not isinstance(results, list) or not all(
        isinstance(call, dict) and is_call_id(call.get("callId")) for call in results
    ):
        raise ProviderUnavailable("the list of calls has no results")
    return results
