"""The statuses of batches, contacts and calls, and the groups of statuses that the rules refer to."""

from django.db import models


class BatchStatus(models.TextChoices):
    PENDING = "pending"
    SCHEDULED = "scheduled"
    PROCESSING = "processing"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Mode(models.TextChoices):
    IMMEDIATE = "immediate"
    SCHEDULED = "scheduled"


class ContactStatus(models.TextChoices):
    PENDING = "pending"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class CallStatus(models.TextChoices):
    INITIATED = "initiated"
    JOINED = "joined"
    ENDED = "ended"


class Outcome(models.TextChoices):
    """The result of one attempt to call a contact."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    # The provider did not accept the call.
    NOT_PLACED = "not_placed"
    # The provider could not say how the call ended.
    UNKNOWN = "unknown"


# Final statuses of a batch: it keeps its status, and none of its contacts is called again.
FINAL = (BatchStatus.COMPLETED, BatchStatus.CANCELLED)

# Statuses in which a batch can be paused.
PAUSABLE = (BatchStatus.PROCESSING, BatchStatus.SCHEDULED)

# Statuses in which the dialler starts or continues a batch once its scheduled time has passed.
STARTABLE = (BatchStatus.PENDING, BatchStatus.SCHEDULED, BatchStatus.PROCESSING)

# Statuses of contacts that were not called yet, or will be called again. A cancel skips exactly these.
DIALABLE = (ContactStatus.PENDING, ContactStatus.QUEUED, ContactStatus.SCHEDULED)

# Statuses of contacts that will not be called again. Every status that is neither here nor in DIALABLE counts as in
# progress, because another service may have its own statuses for it.
FINISHED = (ContactStatus.COMPLETED, ContactStatus.FAILED, ContactStatus.SKIPPED)


# How the note begins of a contact whose call may have been placed.
UNCLEAR = "Unclear: "


def skip_note(status: str) -> str:
    """Return the note of a contact that is skipped because its batch ended: "Batch cancelled", "Batch completed"."""
    return f"Batch {status}"


def not_placed_note(reason: str) -> str:
    """Return the note of a contact whose call the provider refused for this reason."""
    return f"Not placed: {reason}"
