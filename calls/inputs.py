"""The input of a new batch, validated in the same way for requests and for callers in Python."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from itertools import accumulate
from typing import Annotated, Any, Self
from uuid import UUID

from django.utils import timezone
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from calls.exceptions import FieldInvalid, FieldRequired, InvalidContacts
from calls.parsing import E164, RESERVED_PREFIX, is_reserved_key, parse_uuid
from calls.statuses import BatchStatus, Mode

MAX_CONTACTS = 10_000
MAX_CUSTOM_DATA_BYTES = 64 * 1024
MAX_CUSTOM_DATA_DEPTH = 100
MAX_REPORTED_CONTACTS = 20
MAX_REASON = 500

_JSON_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_TIME_CHARACTERS = re.compile(r"[0-9TWZtwz:.,+ -]+")
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(r"[\[\]{}]")
# A number of 1e30 or more, or one of less than 1e-29, as Python writes it. jsonb returns numbers without an exponent:
# 1e9999 would come back as ten thousand digits.
_NUMBER_OUT_OF_RANGE = re.compile(r"[0-9]{31}|e[+-](?:[3-9][0-9]|[0-9]{3})")
_ESCAPED_NULL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_NULL_CHARACTER = PydanticCustomError("null_character", "must not contain the character U+0000")
_INVALID_UNICODE = PydanticCustomError("surrogate", "must be valid Unicode")
_TOO_DEEPLY_NESTED = PydanticCustomError("depth", f"must not be nested more than {MAX_CUSTOM_DATA_DEPTH} levels deep")
_INVALID_NUMBER = PydanticCustomError(
    "number", "must only contain numbers that are 0, or at least 1e-29 and less than 1e30 (positive or negative)"
)

# Messages by pydantic's error type. They follow the field's name, and replace pydantic's own texts.
_MESSAGES = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "int_type": "must be an integer",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "dict_type": "must be an object",
    "list_type": "must be an array",
    "too_short": "must have at least 1 contact",
    "too_long": f"must have at most {MAX_CONTACTS:,} contacts",
    "enum": "must be immediate or scheduled",
}


def _require_value(value: Any) -> Any:
    if value == "":
        raise PydanticCustomError("missing", "is required")
    return value


def _to_uuid(value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else parse_uuid(value)
    except ValueError:
        raise PydanticCustomError("uuid", "must be a valid UUID") from None


def _check_e164(value: str) -> str:
    if not E164.fullmatch(value):
        raise PydanticCustomError("e164", "must be in E.164: a plus sign, then 7 to 15 digits and nothing else")
    return value


def _check_text(value: str) -> str:
    if "\0" in value:
        raise _NULL_CHARACTER
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _INVALID_UNICODE from None
    return value


def _to_utc(value: Any) -> datetime:
    """Convert to UTC. Refuse a time that is out of range in UTC, because it could not be stored or read back."""
    try:
        if isinstance(value, str) and not _TIME_CHARACTERS.fullmatch(value):
            raise ValueError
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError
        return time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise PydanticCustomError(
            "time", "must be a time in ISO 8601 with an offset, such as 2026-01-31T09:30:00Z"
        ) from None


def _is_in_future(time: datetime | None) -> bool:
    return time is not None and time > timezone.now()


def _check_custom_data(value: dict[str, Any]) -> dict[str, Any]:
    """Check that jsonb can store the value and that every JSON parser can read it."""
    try:
        text = _JSON_ENCODER.encode(value)
        size = len(text.encode())
    except RecursionError:
        raise _TOO_DEEPLY_NESTED from None
    except UnicodeEncodeError:
        raise _INVALID_UNICODE from None
    except ValueError:
        raise _INVALID_NUMBER from None
    if size > MAX_CUSTOM_DATA_BYTES:
        raise PydanticCustomError("size", f"must have at most {MAX_CUSTOM_DATA_BYTES // 1024} KB as JSON")
    # The search is slow, and almost no text has these characters.
    if "\\u0000" in text and _ESCAPED_NULL.search(text):
        raise _NULL_CHARACTER
    structure = _JSON_STRING.sub("", text)
    if _NUMBER_OUT_OF_RANGE.search(structure):
        raise _INVALID_NUMBER
    depth_changes = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(structure))
    if max(accumulate(depth_changes)) > MAX_CUSTOM_DATA_DEPTH:
        raise _TOO_DEEPLY_NESTED
    return value


def _check_keys(custom_data: dict[str, Any]) -> dict[str, Any]:
    if any(map(is_reserved_key, custom_data)):
        raise PydanticCustomError(
            "reserved", f'must not have a key that begins with "{RESERVED_PREFIX}": the voice provider reserves these'
        )
    return custom_data


PhoneNumber = Annotated[
    str,
    BeforeValidator(_require_value),
    AfterValidator(_check_e164),
    Field(description="E.164, such as +12125550100", json_schema_extra={"pattern": E164.pattern}),
]
Text = Annotated[str, AfterValidator(_check_text)]
Id = Annotated[UUID, BeforeValidator(_to_uuid), BeforeValidator(_require_value)]
StartTime = Annotated[
    datetime | None,
    BeforeValidator(_to_utc),
    Field(description="ISO 8601 with an offset. A time in the past means now."),
]
StartMode = Annotated[
    Mode | None,
    Field(strict=False, validate_default=True, description="Derived from scheduled_for if absent."),
]


def parse_reason(data: Any) -> str | None:
    """
    Return the ``reason`` of a request's body, or None if it is absent, null or empty.

    :raises FieldInvalid: it is not a string of at most 500 characters, or PostgreSQL cannot store it.
    """
    reason = data.get("reason") if isinstance(data, dict) else None
    rule = f"must be a string of at most {MAX_REASON} characters"
    if reason is not None and (not isinstance(reason, str) or len(reason) > MAX_REASON):
        raise FieldInvalid("reason", rule)
    try:
        return _check_text(reason) if reason else None
    except PydanticCustomError as invalid:
        raise FieldInvalid("reason", f"{rule}, and {invalid.message()}") from None


class _Input(BaseModel):
    """Strict: a number is not accepted as a string, nor a string as a number. A null value counts as absent."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class NewContact(_Input):
    """A contact to call."""

    phone_number: PhoneNumber
    first_name: Text = ""
    last_name: Text = ""
    email: Text = ""
    company: Text = ""
    title: Text = ""
    timezone: Text = ""
    custom_data: Annotated[dict[str, Any], AfterValidator(_check_custom_data), AfterValidator(_check_keys)] = Field(
        default={},
        description=(
            f"At most {MAX_CUSTOM_DATA_BYTES // 1024} KB as JSON, {MAX_CUSTOM_DATA_DEPTH} levels deep. Numbers are 0,"
            " or at least 1e-29 and less than 1e30 (positive or negative). Integers are kept exactly, and other numbers"
            f" with the precision of a double. No key may begin with `{RESERVED_PREFIX}`."
        ),
    )
    max_attempts: int = Field(default=3, ge=1, le=10)


# What a replacement takes from the cancelled batch, unless the caller chooses something else.
REPLACEMENT_DEFAULTS = ("agent_mapping_id", "campaign_id", "from_number", "calls_per_minute", "max_concurrent")


class _BatchInput(_Input):
    """
    What every new batch has: the start time.

    The subclasses declare ``scheduled_for`` and ``mode`` themselves, because the order of the fields decides the
    fingerprint. A stored fingerprint must still match after an upgrade, so new fields come last.
    """

    @field_validator("mode", check_fields=False)
    @classmethod
    def _check_mode(cls, mode: Mode | None, info: ValidationInfo) -> Mode:
        scheduled_for = info.data.get("scheduled_for")
        is_future = _is_in_future(scheduled_for)
        if mode == Mode.IMMEDIATE and is_future:
            raise PydanticCustomError("contradiction", "cannot be immediate where scheduled_for is ahead")
        if mode == Mode.SCHEDULED and scheduled_for is None:
            raise PydanticCustomError("contradiction", "cannot be scheduled without scheduled_for")
        return mode or (Mode.SCHEDULED if is_future else Mode.IMMEDIATE)

    @classmethod
    def parse(cls, data: Any) -> Self:
        """
        Validate the body of a request.

        :raises FieldRequired: a required field is absent, null or empty.
        :raises FieldInvalid: a field has a wrong value, or ``data`` is not an object.
        :raises InvalidContacts: only contacts are invalid.
        """
        if not isinstance(data, dict):
            raise FieldInvalid("body", "must be a JSON object")
        try:
            return cls.model_validate(data)
        except ValidationError as invalid:
            raise _as_calls_error(invalid, data) from None

    @property
    def fingerprint(self) -> str:
        """A hash of the fields that were sent. Equal for two requests that ask for the same batch."""
        return hashlib.sha256(self.model_dump_json(exclude_unset=True).encode()).hexdigest()

    @property
    def batch_values(self) -> dict[str, Any]:
        """The values of the batch's row. A replacement leaves out those that it takes from the cancelled batch."""
        given = self.model_dump(include={"mode", "scheduled_for", *REPLACEMENT_DEFAULTS}, exclude_none=True)
        status = BatchStatus.SCHEDULED if _is_in_future(given.get("scheduled_for")) else BatchStatus.PENDING
        return {"status": status, **given}


class NewBatch(_BatchInput):
    """A new batch: its contacts, the agent that calls them, the limits and the start time."""

    agent_mapping_id: Id
    campaign_id: Id
    from_number: PhoneNumber
    contacts: list[NewContact] = Field(min_length=1, max_length=MAX_CONTACTS)
    calls_per_minute: int = Field(default=30, ge=1, le=60)
    max_concurrent: int = Field(default=10, ge=1, le=100)
    scheduled_for: StartTime = None
    mode: StartMode = None

    @property
    def distinct_contacts(self) -> list[NewContact]:
        """The contacts in their order, without contacts whose phone number an earlier contact has."""
        first: dict[str, NewContact] = {}
        for contact in self.contacts:
            first.setdefault(contact.phone_number, contact)
        return list(first.values())


class NewReplacement(_BatchInput):
    """
    A batch that replaces a cancelled one and gets its skipped contacts.

    Omitted fields are copied from that batch, except the start time.
    """

    replaces: Id = Field(description="The id of a cancelled batch.")
    agent_mapping_id: Id | None = None
    campaign_id: Id | None = None
    from_number: PhoneNumber | None = None
    calls_per_minute: int | None = Field(default=None, ge=1, le=60)
    max_concurrent: int | None = Field(default=None, ge=1, le=100)
    scheduled_for: StartTime = None
    mode: StartMode = None

    @classmethod
    def is_requested_by(cls, data: Any) -> bool:
        """Return whether the body asks for a replacement."""
        return isinstance(data, dict) and data.get("replaces") is not None

    @classmethod
    def parse(cls, data: Any) -> Self:
        """
        Validate the body of a request, as :meth:`NewBatch.parse` does. ``contacts`` must be absent.

        :raises CallsError: FieldRequired or FieldInvalid.
        """
        if isinstance(data, dict) and data.get("contacts") is not None:
            raise FieldInvalid("contacts", "must be absent when replaces is given")
        return super().parse(data)


def _as_calls_error(invalid: ValidationError, data: dict[str, Any]) -> FieldRequired | FieldInvalid | InvalidContacts:
    reasons: dict[int, str] = {}
    for error in invalid.errors(include_url=False, include_input=False):
        error_type, message = error["type"], error["msg"]
        if error_type in _MESSAGES:
            message = _MESSAGES[error_type].format(**error.get("ctx", {}))
        match error["loc"]:
            case ("contacts", int(index), *path):
                reasons.setdefault(index, f"{path[0]} {message}" if path else "must be an object")
            case (str(field), *_):
                return FieldRequired(field) if error_type == "missing" else FieldInvalid(field, message)
    return InvalidContacts(len(reasons), len(data["contacts"]), list(reasons.items())[:MAX_REPORTED_CONTACTS])
