"""The batches that an operator selected, carried in a URL as ``?ids=`` with ids separated by commas."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.db.models import QuerySet

from calls.database.transactions import transaction_with_timeouts
from calls.models import CallBatch
from calls.parsing import parse_uuid

# The size of one page of the list. The operator waits while each batch is changed in its own transaction.
BATCHES_AT_ONCE = 50


def with_ids(url: str, ids: Iterable[UUID]) -> str:
    """Return ``url`` with a query that :class:`SelectionForm` reads."""
    return f"{url}?{urlencode({'ids': ','.join(map(str, ids))}, safe=',')}"


class SelectionForm(forms.Form):
    """
    The query ``?ids=``, with 1 to 50 different ids.

    A malformed or unknown id is valid here: the page then says that this batch was not found.
    """

    ids = forms.CharField()

    def clean_ids(self) -> list[str]:
        ids = (pk.strip() for pk in self.cleaned_data["ids"].lower().split(","))
        distinct = list(dict.fromkeys(filter(None, ids)))
        if not 1 <= len(distinct) <= BATCHES_AT_ONCE:
            raise forms.ValidationError(f"Select 1 to {BATCHES_AT_ONCE} batches.")
        return distinct


def find_batches(batches: QuerySet[CallBatch], ids: Iterable[str]) -> dict[str, CallBatch]:
    """Return the batches with these ids, by id. Malformed and unknown ids are left out."""
    wellformed: list[UUID] = []
    for pk in ids:
        try:
            wellformed.append(parse_uuid(pk))
        except ValueError:
            continue
    with transaction_with_timeouts():
        return {str(pk): batch for pk, batch in batches.in_bulk(wellformed).items()}
