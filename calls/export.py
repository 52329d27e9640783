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
from calls.parsing import E164

# The last column holds an id: after a text that ends with ";", a program that splits there would read the end of the
# line as the start of a cell.
COLUMNS = [
    *("batch_id", "id", "phone_number", "first_name", "last_name", "company", "email", "status", "outcome"),
    *("outcome_notes", "attempts", "last_attempt_at", "completed_at", "duration_seconds", "call_id"),
]
CHUNK = 2000

# A spreadsheet treats a cell as a formula if it begins with one of these signs, even in full width.
_SIGNS = "=+\\-@|%\uff1d\uff0b\uff0d\uff20"
# Characters at which some program begins another cell, also within a cell of ours: programs that expect another
# separator or ignore quotes read the file differently.
_LINE_BREAKS = "\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_SEPARATORS = f",;|\t{_LINE_BREAKS}"
# Blanks, invisible characters and quotes, which some programs remove at the start of a cell.
_REMOVED = '\\s\x00-\x1f\u200b-\u200f\u2060\ufeff"'
# A quick check: most texts have nothing to guard.
_MAY_HAVE_FORMULA = re.compile(f"^[{_REMOVED}{_SIGNS}]|[{_SEPARATORS}]")
# The possessive quantifiers keep these linear in the length of the text. "|" is both a separator and a sign.
_CELL_START = re.compile(f"((?:^|[{_SEPARATORS}])[{_REMOVED},;]*+)(?=([{_SIGNS}]?))")
_THROUGH_LAST_SEPARATOR = re.compile(f"(?s:.*[{_SEPARATORS}])?")
_BEFORE_TAB = re.compile(f'^[ "]*+(?=[\t\r\n])|[,;|{_LINE_BREAKS}][ "]*+(?=\t)')


class Writable(Protocol):
    def write(self, text: str, /) -> Any: ...


def write_csv(batches: Iterable[CallBatch], file: Writable) -> None:
    """
    Write a header row and one row for each contact of ``batches``: batch by batch, oldest contact first.

    Each batch is a snapshot of one moment and is read in chunks. Times are in UTC, and phone numbers in E.164 are
    written as they are. In other texts an apostrophe stands before each sign, such as ``=``, that follows the start of
    the text, a separator or a line break. So a spreadsheet finds no formula, even if it expects ``;``, ``|`` or a tab
    as the separator, or ignores the quotes.

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
    """Return a value as the file shows it."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return _guard(value) if isinstance(value, str) else value


def _guard(text: str) -> str:
    """Put apostrophes into a text so that no spreadsheet treats it, or a part of it, as a formula."""
    if not _MAY_HAVE_FORMULA.search(text) or E164.fullmatch(text):
        return text
    return _BEFORE_TAB.sub(r"\g<0>'", _CELL_START.sub(_guard_start, text))


def _guard_start(start: re.Match[str]) -> str:
    text, sign = start.groups()
    if not sign:
        return text
    separators = _THROUGH_LAST_SEPARATOR.match(text)[0]  # type: ignore[index]
    return f"{separators}'{text.removeprefix(separators)}"
