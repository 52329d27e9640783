"""Proof for whoever gave the order: what became of each contact of a batch, as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import Any, Protocol

from django.conf import settings

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchReadFailed
from calls.models import CallBatch, CampaignContact

COLUMNS = [
    *("batch_id", "id", "phone_number", "first_name", "last_name", "company", "email", "status", "outcome"),
    *("outcome_notes", "attempts", "last_attempt_at", "completed_at", "duration_seconds", "call_id"),
]
CHUNK = 2000

# A spreadsheet takes a cell that begins like this for a formula, also after what is not seen, and in full-width forms.
# One that expects another separator than the comma also begins a cell after that.
_UNSEEN = "\\s\\x00-\\x1f\\u200b-\\u200f\\u2060\\ufeff"
_SIGNS = "=+\\-@|%\uff1d\uff0b\uff0d\uff20"
# Most texts have nothing of that, and are left as they are at once.
_SUSPECT = re.compile(f"^[{_UNSEEN}{_SIGNS}]|[;\t\r\n]")
# Each character is looked at once, however long a text and whatever it consists of.
_BEGINNING = re.compile(f"(?:(^|;)([{_UNSEEN}]*+)|([{_UNSEEN}]++))([{_SIGNS}]?)")


class Writable(Protocol):
    def write(self, text: str, /) -> Any: ...


def write_csv(batches: Iterable[CallBatch], file: Writable) -> None:
    """
    Write a heading and a line for each contact of ``batches``, one batch after another, oldest contact first.

    Each batch is as it was at one moment, and never in memory as a whole. Times are in UTC. A text that a spreadsheet
    would take for a formula, such as a phone number with its plus sign, gets an apostrophe before it.

    :raises BatchReadFailed: the database failed or took too long; what is written until then is not all.
    """
    lines = csv.writer(file, quoting=csv.QUOTE_ALL)
    lines.writerow(COLUMNS)
    for batch in batches:
        contacts = CampaignContact.objects.filter(batch=batch.pk).oldest_first().values_list(*COLUMNS)
        # A cursor on the server, which a pooler keeps for as long as the transaction.
        with database_errors_as(BatchReadFailed), transaction_with_timeouts(statement=settings.CANCEL_TIMEOUT):
            for contact in contacts.iterator(chunk_size=CHUNK):
                lines.writerow([_harmless(value) for value in contact])


def _harmless(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if not isinstance(value, str) or not _SUSPECT.search(value):
        return value
    harmless = _BEGINNING.sub(_with_apostrophes, value)
    return f"'{harmless}" if harmless[0] in "\t\r\n" else harmless


def _with_apostrophes(beginning: re.Match[str]) -> str:
    opens, after_it, elsewhere, sign = beginning.groups()
    if not sign:
        return beginning[0]
    unseen = re.sub("([\t\r\n])", r"\1'", elsewhere or after_it or "")
    return unseen + sign if opens is None else f"{opens}'{unseen}{sign}"
