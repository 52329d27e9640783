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


class FieldRequired(CallsError):
    """A value without which nothing can be done; ``field`` is its name."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.code = f"{field}_required"
        self.text = f"{field} is required"


class FieldInvalid(CallsError):
    """A value that cannot be taken; ``rule`` says what it must be, after the field's name."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.code = f"{field}_invalid"
        self.text = f"{field} {rule}"


class InvalidContacts(CallsError):
    """Contacts that cannot be taken: ``count`` of them, the first with their index and the reason. None is stored."""

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
    """The batch is in no status for it. ``batch`` is the row as it was read under the lock."""

    def __init__(self, batch: CallBatch) -> None:
        super().__init__()
        self.batch = batch


class BatchFinished(BatchRefused):
    """The batch has ended for good."""


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


class IdempotencyKeyReused(CallsError):
    code = "idempotency_key_reused"
    text = "Idempotency-Key was used before with another body; nothing was stored"


class DatabaseFailed(CallsError):
    """The database refused, failed or took too long. Nothing was changed; the cause is in ``__cause__``."""


class BatchUpdateFailed(DatabaseFailed):
    code = "update_failed"
    text = "Failed to update batch status"


class BatchCreateFailed(DatabaseFailed):
    code = "create_failed"
    text = "Failed to create batch"


class BatchReadFailed(DatabaseFailed):
    code = "read_failed"
    text = "Failed to read batches"
