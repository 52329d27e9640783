"""What a batch is created with, checked in the same way whoever makes one: a request, or code."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from itertools import accumulate
from typing import Annotated, Any
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
from calls.parsing import E164, parse_uuid
from calls.statuses import Mode

MAX_CONTACTS = 10_000
MAX_CUSTOM_DATA = 64 * 1024
MAX_DEPTH = 100
# How many invalid contacts an answer names.
NAMED = 20

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_TIME = re.compile(r"[0-9TWZtwz:.,+ -]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[\]{}]")
# jsonb writes out in digits what JSON says with an exponent.
_FAR_EXPONENT = re.compile(r"e[+-]?(?:[3-9][0-9]|[0-9]{3})")
_ESCAPED_NULL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_NULL_CHARACTER = PydanticCustomError("null_character", "must not contain the character U+0000")
_HALF_A_CHARACTER = PydanticCustomError("surrogate", "must be valid Unicode")
_TOO_DEEP = PydanticCustomError("depth", f"must not be nested more than {MAX_DEPTH} levels deep")
_FAR_NUMBER = PydanticCustomError("number", "must not contain a number as far out as 1e30 or 1e-30")

# What a value must be, where pydantic's own words would not say it as one who fills in a form needs it.
_RULES = {
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


def _given(value: Any) -> Any:
    if value == "":
        raise PydanticCustomError("missing", "is required")
    return value


def _uuid(value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else parse_uuid(value)
    except ValueError:
        raise PydanticCustomError("uuid", "must be a valid UUID") from None


def _e164(value: str) -> str:
    if not E164.fullmatch(value):
        raise PydanticCustomError("e164", "must be in E.164: a plus sign, then 7 to 15 digits and nothing else")
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise _NULL_CHARACTER
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _HALF_A_CHARACTER from None
    return value


def _time(value: Any) -> datetime:
    """In UTC, since only there is it certain to fit into the database."""
    try:
        if isinstance(value, str) and not _TIME.fullmatch(value):
            raise ValueError
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError
        return time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise PydanticCustomError(
            "time", "must be a time in ISO 8601 with an offset, such as 2026-01-31T09:30:00Z"
        ) from None


def _is_ahead(time: datetime | None) -> bool:
    return time is not None and time > timezone.now()


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """What jsonb takes, and what every reader of JSON can read again."""
    try:
        text = _ENCODER.encode(value)
        size = len(text.encode())
    except RecursionError:
        raise _TOO_DEEP from None
    except UnicodeEncodeError:
        raise _HALF_A_CHARACTER from None
    except ValueError:
        raise _FAR_NUMBER from None
    if size > MAX_CUSTOM_DATA:
        raise PydanticCustomError("size", f"must have at most {MAX_CUSTOM_DATA // 1024} KB as JSON")
    if _ESCAPED_NULL.search(text):
        raise _NULL_CHARACTER
    structure = _STRING.sub("", text)
    if _FAR_EXPONENT.search(structure):
        raise _FAR_NUMBER
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(structure))
    if max(accumulate(steps)) > MAX_DEPTH:
        raise _TOO_DEEP
    return value


PhoneNumber = Annotated[
    str,
    BeforeValidator(_given),
    AfterValidator(_e164),
    Field(description="E.164, such as +12125550100", json_schema_extra={"pattern": E164.pattern}),
]
Text = Annotated[str, AfterValidator(_text)]
Id = Annotated[UUID, BeforeValidator(_uuid), BeforeValidator(_given)]


class _Input(BaseModel):
    """Strict: no number is taken for a text, and no text for a number. What is null counts as not given."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class NewContact(_Input):
    """Somebody to call."""

    phone_number: PhoneNumber
    first_name: Text = ""
    last_name: Text = ""
    email: Text = ""
    company: Text = ""
    title: Text = ""
    timezone: Text = ""
    custom_data: Annotated[dict[str, Any], AfterValidator(_storable)] = Field(
        default={}, description=f"At most {MAX_CUSTOM_DATA // 1024} KB as JSON, {MAX_DEPTH} levels deep."
    )
    max_attempts: int = Field(default=3, ge=1, le=10)


class NewBatch(_Input):
    """A list of people to call, who calls them, and when."""

    agent_mapping_id: Id
    campaign_id: Id
    from_number: PhoneNumber
    contacts: list[NewContact] = Field(min_length=1, max_length=MAX_CONTACTS)
    calls_per_minute: int = Field(default=30, ge=1, le=60)
    max_concurrent: int = Field(default=10, ge=1, le=100)
    scheduled_for: Annotated[datetime | None, BeforeValidator(_time)] = Field(
        default=None, description="ISO 8601 with an offset. A time in the past means now."
    )
    mode: Mode | None = Field(
        default=None, strict=False, validate_default=True, description="Follows from scheduled_for when absent."
    )

    @field_validator("mode")
    @classmethod
    def _follow(cls, mode: Mode | None, others: ValidationInfo) -> Mode:
        time = others.data.get("scheduled_for")
        ahead = _is_ahead(time)
        if mode == Mode.IMMEDIATE and ahead:
            raise PydanticCustomError("contradiction", "cannot be immediate where scheduled_for is ahead")
        if mode == Mode.SCHEDULED and time is None:
            raise PydanticCustomError("contradiction", "cannot be scheduled without scheduled_for")
        return mode or (Mode.SCHEDULED if ahead else Mode.IMMEDIATE)

    @classmethod
    def parse(cls, data: Any) -> NewBatch:
        """
        What a request has asked for.

        :raises FieldRequired: a field is absent, null or empty that must be given.
        :raises FieldInvalid: a field is not what it must be, or ``data`` is no object.
        :raises InvalidContacts: the batch is right, but some of its contacts are not.
        """
        if not isinstance(data, dict):
            raise FieldInvalid("body", "must be a JSON object")
        try:
            return cls.model_validate(data)
        except ValidationError as invalid:
            raise _refusal(invalid, data) from None

    @property
    def fingerprint(self) -> str:
        """The same for everybody who asks for the same, and whenever they do."""
        return hashlib.sha256(self.model_dump_json(exclude_unset=True).encode()).hexdigest()

    @property
    def is_ahead(self) -> bool:
        """Whether the time to begin is still to come."""
        return _is_ahead(self.scheduled_for)

    @property
    def distinct_contacts(self) -> list[NewContact]:
        """The contacts in their order; of several with one number the first."""
        first: dict[str, NewContact] = {}
        for contact in self.contacts:
            first.setdefault(contact.phone_number, contact)
        return list(first.values())


def _refusal(invalid: ValidationError, data: dict[str, Any]) -> FieldRequired | FieldInvalid | InvalidContacts:
    reasons: dict[int, str] = {}
    for error in invalid.errors(include_url=False, include_input=False):
        kind, rule = error["type"], error["msg"]
        if kind in _RULES:
            rule = _RULES[kind].format(**error.get("ctx", {}))
        match error["loc"]:
            case ("contacts", int(index), *within):
                reasons.setdefault(index, f"{within[0]} {rule}" if within else "must be an object")
            case (str(field), *_):
                return FieldRequired(field) if kind == "missing" else FieldInvalid(field, rule)
    return InvalidContacts(len(reasons), len(data["contacts"]), list(reasons.items())[:NAMED])
