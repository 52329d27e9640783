"""What the dialler needs from a voice provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from calls.parsing import parse_time

# A call as the provider describes it, with the provider's own field names.
Snapshot = Mapping[str, Any]

# How long an account is deferred when the provider takes no calls and sends no Retry-After.
DEFAULT_PAUSE = timedelta(seconds=60)
# The limits of a Retry-After that is honoured.
LONGEST_PAUSE = timedelta(days=1)
SHORTEST_PAUSE = timedelta(seconds=5)


class ProviderBusy(Exception):
    """The provider takes no calls at the moment, so no call was placed. Try again after ``pause``."""

    def __init__(self, reason: str, pause: timedelta = DEFAULT_PAUSE) -> None:
        super().__init__(reason)
        self.pause = min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE)


class ProviderUnreachable(ProviderBusy):
    """This process cannot connect to the provider, so no call was placed. Other processes may be able to."""


class PlacementRefused(Exception):
    """
    The provider refused this call, so no call was placed. The text is the status and the provider's own words.

    With ``names_number`` the answer names the number to call, so the refusal is about this contact alone.
    """

    def __init__(self, reason: str, *, names_number: bool = False) -> None:
        super().__init__(reason)
        self.names_number = names_number


class AllCallsRefused(Exception):
    """
    The provider refuses the account or the agent, so it would refuse every call of the batch. No call was placed.

    With ``unless_others_accepted`` the answer does not tell whether it is about the account or about one destination.
    If the provider accepts other calls of the batch, it is about the destination.
    """

    def __init__(self, reason: str, *, unless_others_accepted: bool = False) -> None:
        super().__init__(reason)
        self.unless_others_accepted = unless_others_accepted


class PlacementUnclear(Exception):
    """It is unknown whether the call was placed."""


class ProviderUnavailable(Exception):
    """The provider did not answer a question, or its answer cannot be relied on."""


@dataclass(frozen=True)
class CallRequest:
    """
    One call to place.

    ``to`` and ``caller_id`` are E.164. The provider returns ``metadata`` with every event of the call. Its keys
    ``contact_id`` and ``attempt`` identify the attempt. Without a ``first_speaker_text`` the agent begins as it is
    configured at the provider.
    """

    agent_id: str
    to: str
    caller_id: str
    metadata: Mapping[str, str]
    first_speaker_text: str | None = None


class Provider(Protocol):
    """A voice provider. Instances are shared between threads."""

    lookup_after: timedelta
    """How long after the start of an attempt its call is looked up, if no end was recorded."""

    def place(self, request: CallRequest) -> str:
        """
        Place a call and return its id at the provider. The request is sent once, without retries.

        :raises ProviderBusy: the provider takes no calls at the moment; no call was placed.
        :raises PlacementRefused: the provider refused this call; no call was placed.
        :raises AllCallsRefused: the provider refuses the account or the agent; no call was placed.
        :raises PlacementUnclear: the call may have been placed. :meth:`find` can tell.
        """

    def find(self, contact_id: UUID, attempt: int, *, since: datetime) -> str | None:
        """
        Return the provider's id of the call of this attempt, which began at ``since``, or None if there is no call.

        :raises ProviderUnavailable: the provider could not answer.
        """

    def look_up(self, call_id: str) -> Snapshot | None:
        """
        Return the call as the provider has it, or None if the provider does not know the id.

        :raises ProviderUnavailable: the provider could not answer.
        """


def belongs_to_attempt(call: Snapshot, attempt: int, since: datetime) -> bool:
    """
    Return whether a contact's call was placed for this attempt, which began at ``since``.

    A call that another dialler placed may have no attempt number in its metadata. It is matched by the time of its
    creation, and counts if it has none.
    """
    metadata = call.get("metadata")
    number = metadata.get("attempt") if isinstance(metadata, dict) else None
    if isinstance(number, str) and number.isascii() and number.isdigit():
        return number == str(attempt)
    try:
        # Allow for a difference between the provider's clock and the database's.
        return parse_time(call.get("created")) >= since - timedelta(minutes=1)
    except ValueError:
        return True
