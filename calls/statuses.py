"""The statuses of batches and contacts, and the groups of them that the rules speak of."""

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
    """What came of an attempt to call somebody."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    # The provider has not taken the call.
    NOT_PLACED = "not_placed"
    # Nobody will ever know.
    UNKNOWN = "unknown"


# A batch in one of these has ended for good: it keeps its status, and none of its contacts is dialled again.
FINAL = (BatchStatus.COMPLETED, BatchStatus.CANCELLED)

# What can be paused: a batch that is being dialled, or will be at its time.
PAUSABLE = (BatchStatus.PROCESSING, BatchStatus.SCHEDULED)

# What the dialler dials, once its time has come.
STARTABLE = (BatchStatus.PENDING, BatchStatus.SCHEDULED, BatchStatus.PROCESSING)

# Contacts not yet called. Cancelling a batch skips exactly these.
DIALABLE = (ContactStatus.PENDING, ContactStatus.QUEUED, ContactStatus.SCHEDULED)
