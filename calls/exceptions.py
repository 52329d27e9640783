"""
The reasons for refusing a request, each with a code for programs and a text for people.

Nothing here knows about HTTP, the admin or a terminal. Each entry point presents these errors in its own way.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from calls.roles import WRITER_ROLES_TEXT


class CallsError(Exception):
    """Base class. ``code`` and ``text`` are part of the API's contract and do not change."""

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


class NoAgency(CallsError):
    code = "no_agency"
    text = "User is not associated with an agency"


class InsufficientRole(CallsError):
    code = "insufficient_role"
    text = f"User role is not {WRITER_ROLES_TEXT}"


class FieldRequired(CallsError):
    """A required field is missing."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.code = f"{field}_required"
        self.text = f"{field} is required"


class FieldInvalid(CallsError):
    """A field has a wrong value. ``rule`` follows the field's name in the text: "must be …"."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.code = f"{field}_invalid"
        self.text = f"{field} {rule}"


class InvalidContacts(CallsError):
    """``count`` of ``total`` contacts are invalid, so none is stored. ``first`` has ``(index, reason)`` pairs."""

    code = "contacts_invalid"

    def __init__(self, count: int, total: int, first: list[tuple[int, str]]) -> None:
        super().__init__(count, total)
        self.first = first
        self.text = f"{count} of {total} contacts {'is' if count == 1 else 'are'} invalid; nothing was stored"


class AgentMappingNotFound(CallsError):
    code = "agent_mapping_not_found"
    text = "Agent mapping not found"


class CampaignNotFound(CallsError):
    code = "campaign_not_found"
    text = "Campaign not found"


class BatchNotFound(CallsError):
    code = "batch_not_found"
    text = "Batch not found"


class BatchRefused(CallsError):
    """The batch's status does not allow this. ``status`` and ``completed_at`` were read under the batch's lock."""

    def __init__(self, batch_id: UUID, status: str, completed_at: datetime | None) -> None:
        super().__init__(batch_id, status)
        self.batch_id = batch_id
        self.status = status
        self.completed_at = completed_at


class BatchFinished(BatchRefused):
    """The batch is completed or cancelled, which is final."""


class BatchAlreadyCompleted(BatchFinished):
    code = "batch_already_completed"
    text = "Batch is already completed"


class BatchAlreadyCancelled(BatchFinished):
    code = "batch_already_cancelled"
    text = "Batch is already cancelled"


class BatchNotPausable(BatchRefused):
    code = "batch_not_pausable"
    text = "Only a processing or scheduled batch can be paused"


class BatchNotPaused(BatchRefused):
    code = "batch_not_paused"
    text = "Only a paused batch can be resumed"


class BatchNotCancelled(BatchRefused):
    code = "batch_not_cancelled"
    text = "Only a cancelled batch can be replaced"


class BatchAlreadyReplaced(CallsError):
    """``batch_id`` is the id of the batch that replaces it."""

    code = "batch_already_replaced"

    def __init__(self, batch_id: UUID) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id
        self.text = f"Batch is already replaced by batch {batch_id}"


class NoContactsToReplace(CallsError):
    code = "no_contacts_to_replace"
    text = "The cancel skipped no contact that can be called"


class AgencyNotFound(CallsError):
    code = "agency_not_found"
    text = "Agency not found"


class CredentialsUnusable(CallsError):
    """The agency's key for the provider cannot be had. ``text`` says what to do, and never contains a key."""

    code = "credentials_unusable"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class IdempotencyKeyReused(CallsError):
    code = "idempotency_key_reused"
    text = "Idempotency-Key was used before with another body; nothing was stored"


class DatabaseFailed(CallsError):
    """A database error or timeout. Nothing was changed; the database's error is in ``__cause__``."""


class BatchUpdateFailed(DatabaseFailed):
    code = "update_failed"
    text = "Failed to update batch status"


class BatchCreateFailed(DatabaseFailed):
    code = "create_failed"
    text = "Failed to create batch"


class BatchReadFailed(DatabaseFailed):
    code = "read_failed"
    text = "Failed to read batches"


class AgencyUpdateFailed(DatabaseFailed):
    code = "agency_update_failed"
    text = "Failed to update agency"


class HoldUnconfirmed(DatabaseFailed):
    """Unlike after the other failures, the hold is stored: no claim that begins now succeeds."""

    code = "hold_unconfirmed"
    text = "The agency is on hold, but a call that was about to start may still start. Hold it again to be certain"


class CleanupFailed(DatabaseFailed):
    """Unlike after the other failures, rows that were deleted before the error stay deleted."""

    code = "cleanup_failed"
    text = "Failed to delete expired rows"
