"""What every one of our own tables has: a time-ordered id, and when its rows were made and last changed."""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from uuid_utils.compat import uuid7


class EnumTextField(models.TextField):  # type: ignore[type-arg]
    """
    One of a few words: text in a table that we made, perhaps an enum in one that somebody else made.

    Django inserts several rows at once by way of ``unnest(…::text[])``, which an enum does not take. A field with a
    placeholder of its own keeps it from that.
    """

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:
        return "%s"


class LenientJSONDecoder(json.JSONDecoder):
    """
    Reads whatever jsonb holds: null for a number beyond all range, and for all of it where it is nested too deeply.

    Another service may have written what no client of ours could read again.
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


class BaseModel(models.Model):
    """
    Each default stands in the database too: other services insert by SQL and name only the columns they know.

    ``update()`` and ``save(update_fields=…)`` do not move ``updated_at``; whoever calls them sets it.
    """

    # Rows made here are numbered in order of time, which is cheaper to index than the database's random default.
    id = models.UUIDField(primary_key=True, default=uuid7, db_default=RandomUUID(), editable=False)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        abstract = True
