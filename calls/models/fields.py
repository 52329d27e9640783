"""Fields that also read what other services have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

from django.db import models


class EnumTextField(models.TextField):  # type: ignore[type-arg]
    """
    A text field with fixed choices. In adopted tables its column may be a native enum.

    Django inserts several rows at once through ``unnest(…::text[])``, which an enum column rejects. A field with its
    own placeholder makes Django use a plain VALUES list.
    """

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:
        return "%s"


class ForeignIdField(models.UUIDField):  # type: ignore[type-arg]
    """The id of a row of another service. In adopted tables its column may be of any type, which is not converted."""

    # For the survey of an adoption.
    takes_any_column_type = True

    def to_python(self, value: Any) -> Any:
        return value

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        # As a literal without a type, so that PostgreSQL takes the column's.
        return None if value is None else str(value)


class LenientJSONDecoder(json.JSONDecoder):
    """
    Decode any jsonb value. Numbers out of range, and values that are nested too deeply, become None.

    Another service may have written a value that Python's decoder rejects.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"parse_int": _finite(int), "parse_float": _finite(float)})

    def decode(self, text: str, *options: Any) -> Any:
        try:
            return super().decode(text, *options)
        except RecursionError:
            return None


def _finite(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(digits: str) -> Any:
        try:
            number = kind(digits)
        except ValueError:
            return None
        return number if isinstance(number, int) or isfinite(number) else None

    return parse
