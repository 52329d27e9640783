"""The provider that places calls: what the dialler needs of one, Ultravox over HTTP, and a simulated one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from threading import Lock
from typing import Any, Protocol
from urllib.parse import quote
from uuid import UUID

import httpx
from django.conf import settings
from django.utils import timezone
from uuid_utils.compat import uuid7

from calls.parsing import is_call_id, parse_time

logger = logging.getLogger(__name__)

# The provider's own events and states, by its own names.
Snapshot = Mapping[str, Any]

# How long a batch waits when the provider takes no calls and does not say until when.
DEFAULT_PAUSE = timedelta(seconds=60)
# Who asks for longer is asked again after a day; who asks for none, not at once.
LONGEST_PAUSE = timedelta(days=1)
SHORTEST_PAUSE = timedelta(seconds=5)

# Not about the person to call, but about the account: a wrong key, no credit left, not allowed.
_ACCOUNT = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN)
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_PAGES = 10
_ONE_AT_A_TIME = Lock()


class ProviderBusy(Exception):
    """It takes no calls now, so nobody was called; the next may be tried after ``pause``."""

    def __init__(self, reason: str, pause: timedelta = DEFAULT_PAUSE) -> None:
        super().__init__(reason)
        self.pause = min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE)


class PlacementRefused(Exception):
    """It has refused this call, so nobody was called."""


class PlacementUnclear(Exception):
    """Whether somebody is being called cannot be told from the answer, or there was none."""


class ProviderSilent(Exception):
    """It does not answer a question, or not in a way that can be relied on."""


@dataclass(frozen=True)
class Order:
    """
    One call to place.

    ``to`` and ``caller_id`` are E.164. ``metadata`` comes back with everything that the provider says of the call;
    ``contact_id`` and ``attempt`` in it say whose call it is.
    """

    agent_id: str
    to: str
    caller_id: str
    metadata: Mapping[str, str]
    first_speaker_text: str | None = None


class Dialer(Protocol):
    """Places calls. Safe to share between threads."""

    silence: timedelta
    """How long nothing may be heard of a call before it is asked for."""

    def place(self, order: Order) -> str:
        """
        Place the call, and give back the provider's id of it. Sent once: nothing is tried again in here.

        :raises ProviderBusy: it takes none at the moment, nobody was called.
        :raises PlacementRefused: it does not take this one, nobody was called.
        :raises PlacementUnclear: somebody may have been called. :meth:`find` tells.
        """

    def find(self, contact_id: UUID, attempt: int, *, since: datetime) -> str | None:
        """
        The provider's id of the call of a contact's attempt, which began at ``since``; None if there is no such call.

        :raises ProviderSilent: it cannot be told.
        """

    def look_up(self, call_id: str) -> Snapshot | None:
        """
        The call as the provider has it, None if it does not know it.

        :raises ProviderSilent: it cannot be told.
        """


class UltravoxDialer:
    """Ultravox, which calls over Telnyx. One pool of connections for all threads of a process."""

    silence = timedelta(hours=1)

    def __init__(self, url: str, key: str, timeout: float) -> None:
        self._timeout = timeout
        self._client = httpx.Client(
            base_url=url,
            headers={"X-API-Key": key},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    def close(self) -> None:
        """Close its connections; it cannot be used any more."""
        self._client.close()

    def place(self, order: Order) -> str:
        agent = {"text": order.first_speaker_text} if order.first_speaker_text else {}
        body = {
            "medium": {"telnyx": {"outgoing": {"to": order.to, "from": order.caller_id}}},
            "metadata": dict(order.metadata),
            "firstSpeakerSettings": {"agent": agent},
        }
        address = f"/api/agents/{quote(order.agent_id, safe='')}/calls"
        try:
            response = self._client.post(address, json=body, extensions={"trace": self._unless_late()})
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            # Nothing was sent.
            raise ProviderBusy(type(error).__name__) from error
        except httpx.HTTPError as error:
            raise PlacementUnclear(type(error).__name__) from error
        return _call_id_of(response)

    def _unless_late(self) -> Callable[[str, Mapping[str, Any]], None]:
        """
        What lets nothing be sent once the time-out is over: whoever then finds no call believes that none will come.

        Just to look the provider's name up, and to try each of its addresses, may take any time.
        """
        until = time.monotonic() + self._timeout

        def look(event: str, info: Mapping[str, Any]) -> None:
            if event.endswith(".send_request_headers.started") and time.monotonic() > until:
                raise ProviderBusy("it took too long to reach it")

        return look

    def find(self, contact_id: UUID, attempt: int, *, since: datetime) -> str | None:
        parameters: Mapping[str, str] = {"metadata.contact_id": str(contact_id), "pageSize": "100"}
        for _ in range(_PAGES):
            page = self._get("/api/calls", parameters)
            if page is None:
                raise ProviderSilent("HTTP 404 for the list of calls")
            for call in _results(page):
                said = call.get("metadata")
                if not isinstance(said, dict) or said.get("contact_id") != str(contact_id):
                    # Then the list is not of this contact, and what is not in it may be all the same.
                    raise ProviderSilent("the list of calls is not filtered by metadata")
                if _is_of(call, said, attempt, since):
                    return str(call["callId"])
            if not page.get("next"):
                return None
            try:
                parameters = httpx.URL(str(page["next"])).params
            except (httpx.InvalidURL, ValueError) as error:
                raise ProviderSilent("the list of calls does not say where it goes on") from error
        raise ProviderSilent("the list of calls does not end")

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
            raise ProviderSilent(type(error).__name__) from error
        if not isinstance(answer, dict):
            raise ProviderSilent("the answer is no object")
        return answer


def _call_id_of(response: httpx.Response) -> str:
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
        raise ProviderBusy(f"HTTP {status}", _pause_of(response))
    if response.has_redirect_location:
        raise ProviderBusy(f"HTTP {status}: check ULTRAVOX_API_URL")
    if status in _ACCOUNT:
        raise ProviderBusy(f"HTTP {status}: check ULTRAVOX_API_KEY and the account")
    if response.is_server_error or status == HTTPStatus.REQUEST_TIMEOUT:
        raise PlacementUnclear(f"HTTP {status}")
    raise PlacementRefused(f"HTTP {status}")


def _pause_of(response: httpx.Response) -> timedelta:
    """What ``Retry-After`` asks for: a number of seconds, or a date."""
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
        raise ProviderSilent("the list of calls has no results")
    return results


def _is_of(call: dict[str, Any], said: dict[str, Any], attempt: int, since: datetime) -> bool:
    """Whether it is the call of that attempt; one that another dialler has placed does not say its number."""
    number = said.get("attempt")
    if isinstance(number, str) and number.isdigit():
        return number == str(attempt)
    try:
        # The provider's clock need not be the database's.
        return parse_time(call.get("created")) >= since - timedelta(minutes=1)
    except ValueError:
        return True


class SimulatedDialer:
    """
    Calls nobody. Each call is over after 20 seconds; of five, one is not answered.

    Nothing is kept: what became of a call follows from its id and the time. Outside of a demo it cannot tell of a call
    that it has no id of: that may be a real one, which another process has placed.
    """

    silence = timedelta(seconds=20)

    _PREFIX = "simulated-"
    _RINGS = timedelta(seconds=5)
    _LASTS = timedelta(seconds=20)

    @classmethod
    def new_id(cls) -> str:
        """The id of a call that begins now."""
        return f"{cls._PREFIX}{uuid7()}"

    def place(self, order: Order) -> str:
        return self.new_id()

    def find(self, contact_id: UUID, attempt: int, *, since: datetime) -> str | None:
        if not settings.DEBUG:
            raise ProviderSilent("calls are simulated: ULTRAVOX_API_KEY is not set")
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


def configured() -> Dialer:
    """The dialer of this process: Ultravox where there is a key, else the simulated one, which the log then says."""
    with _ONE_AT_A_TIME:
        return _configured()


@cache
def _configured() -> Dialer:
    if settings.ULTRAVOX_API_KEY:
        return UltravoxDialer(settings.ULTRAVOX_API_URL, settings.ULTRAVOX_API_KEY, settings.ULTRAVOX_TIMEOUT)
    logger.warning("calls are simulated, nobody is called: ULTRAVOX_API_KEY is not set")
    return SimulatedDialer()
