"""
What can be refused, each with the code a program reads and the text a person reads.

Nothing here knows of HTTP, the admin or a terminal: every door says the same refusal in its own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calls.models import CallBatch


class CallsError(Exception):
    """A refusal. ``code`` and ``text`` are part of the API's contract and do not change."""

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


class NoAgency(CallsError):
    code = "no_agency"
    text = "User is not associated with an agency"


class InsufficientRole(CallsError):
    code = "insufficient_role"
    text = "User role is not agency_owner or agency_admin"


class BatchIdRequired(CallsError):
    code = "batch_id_required"
    text = "batch_id is required"


class BatchIdInvalid(CallsError):
    code = "batch_id_invalid"
    text = "batch_id must be a valid UUID"


class BatchNotFound(CallsError):
    code = "batch_not_found"
    text = "Batch not found"


class BatchFinished(CallsError):
    """The batch has ended for good. ``batch`` is the row as it was read under the lock."""

    def __init__(self, batch: CallBatch) -> None:
        super().__init__()
        self.batch = batch


class BatchAlreadyCompleted(BatchFinished):
    code = "batch_already_completed"
    text = "Batch is already completed"


class BatchAlreadyCancelled(BatchFinished):
    code = "batch_already_cancelled"
    text = "Batch is already cancelled"


class BatchUpdateFailed(CallsError):
    """The database refused, failed or took too long. Nothing was changed; the cause is in ``__cause__``."""

    code = "update_failed"
    text = "Failed to update batch status"
