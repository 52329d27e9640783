"""
The rows that an operator selected in a list.

Selected batches are carried to the next page in its URL, as ``?ids=`` with ids separated by commas.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest

from calls.database.transactions import transaction_with_timeouts
from calls.models import CallBatch
from calls.parsing import parse_uuid

# The size of one page of the list. The operator waits while each batch is changed in its own transaction.
BATCHES_AT_ONCE = 50


def selects_all_matching(request: HttpRequest) -> bool:
    """Return whether the operator chose "Select all", which means every row that the list's filters find."""
    return bool(forms.BooleanField().to_python(request.POST.get("select_across")))


def selected_ids(request: HttpRequest, batches: QuerySet[CallBatch]) -> list[str]:
    """
    Return the ids that were ticked, or the ids of ``batches`` for "Select all": at most one more than is allowed.

    Ticked ids are returned as they were posted. Malformed and unknown ids are kept, so that the next page names them.
    """
    if selects_all_matching(request):
        return list(map(str, batches.values_list("pk", flat=True)[: BATCHES_AT_ONCE + 1]))
    return request.POST.getlist(ACTION_CHECKBOX_NAME)[: BATCHES_AT_ONCE + 1]


def with_ids(url: str, ids: Iterable[UUID | str]) -> str:
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


def wellformed_ids(ids: Iterable[str]) -> list[UUID]:
    """Return the ids that are UUIDs. The others cannot be looked up."""
    wellformed: list[UUID] = []
    for pk in ids:
        try:
            wellformed.append(parse_uuid(pk))
        except ValueError:
            continue
    return wellformed


def find_batches(batches: QuerySet[CallBatch], ids: Iterable[str]) -> dict[str, CallBatch]:
    """Return the batches with these ids, by id. Malformed and unknown ids are left out."""
    with transaction_with_timeouts():
        return {str(pk): batch for pk, batch in batches.in_bulk(wellformed_ids(ids)).items()}
