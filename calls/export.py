"""CSV export of a batch's contacts and their outcomes."""

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

# A spreadsheet treats a cell as a formula if it begins with one of the signs in _SIGNS, even in full width or after
# invisible characters. If it splits lines at another separator than the comma, the text after that separator is a cell,
# too.
_INVISIBLE = "\\s\\x00-\\x1f\\u200b-\\u200f\\u2060\\ufeff"
_SIGNS = "=+\\-@|%\uff1d\uff0b\uff0d\uff20"
# A quick check: most texts have nothing to escape.
_MAY_HAVE_FORMULA = re.compile(f"^[{_INVISIBLE}{_SIGNS}]|[;\t\r\n]")
# The possessive quantifiers keep this linear in the length of the text.
_CELL_START = re.compile(f"(?:(^|;)([{_INVISIBLE}]*+)|([{_INVISIBLE}]++))([{_SIGNS}]?)")


class Writable(Protocol):
    def write(self, text: str, /) -> Any: ...


def write_csv(batches: Iterable[CallBatch], file: Writable) -> None:
    """
    Write a header row and one row for each contact of ``batches``: batch by batch, oldest contact first.

    Each batch is a snapshot of one moment and is read in chunks. Times are in UTC. A text that a spreadsheet would
    treat as a formula, such as a phone number with its plus sign, gets an apostrophe in front.

    :raises BatchReadFailed: the database failed or took too long; what was written so far is incomplete.
    """
    rows = csv.writer(file, quoting=csv.QUOTE_ALL)
    rows.writerow(COLUMNS)
    for batch in batches:
        contacts = CampaignContact.objects.filter(batch=batch.pk).oldest_first().values_list(*COLUMNS)
        # A server-side cursor. It needs a transaction, which also keeps a pooler from changing the connection.
        with database_errors_as(BatchReadFailed), transaction_with_timeouts(statement=settings.CANCEL_TIMEOUT):
            for contact in contacts.iterator(chunk_size=CHUNK):
                rows.writerow([_cell(value) for value in contact])


def _cell(value: Any) -> Any:
    """Return a value as the file shows it. Apostrophes keep spreadsheets from treating texts as formulas."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if not isinstance(value, str) or not _MAY_HAVE_FORMULA.search(value):
        return value
    escaped = _CELL_START.sub(_escape_formula, value)
    return f"'{escaped}" if escaped[0] in "\t\r\n" else escaped


def _escape_formula(start: re.Match[str]) -> str:
    opening, invisible_after_opening, invisible, sign = start.groups()
    if not sign:
        return start[0]
    # Tabs and line breaks may separate cells, too.
    escaped = re.sub("([\t\r\n])", r"\1'", invisible or invisible_after_opening or "") + sign
    return escaped if opening is None else f"{opening}'{escaped}"
