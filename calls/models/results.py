"""What the verbs of a batch answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from calls.statuses import BatchStatus

if TYPE_CHECKING:
    from calls.models.batch import CallBatch


def _shown(counter: int | None) -> int:
    """A counter to look at: another service may have left it empty, or brought it below 0."""
    return max(counter or 0, 0)


@dataclass(frozen=True)
class CreateResult:
    """The new batch, its agent loaded, and how many contacts were left out since an earlier one has their number."""

    batch: CallBatch
    duplicates_removed: int


@dataclass(frozen=True)
class CancelResult:
    """
    What a cancel did, or would do.

    ``contacts_skipped`` is the row count of the UPDATE itself. ``in_progress`` is the batch's own counter of calls
    that were under way and go on until they end.
    """

    batch_id: UUID
    agency_id: UUID
    status: BatchStatus
    contacts_skipped: int
    in_progress: int

    @classmethod
    def of(cls, batch: CallBatch, *, contacts_skipped: int) -> CancelResult:
        """What it is for a batch as it was read."""
        return cls(batch.pk, batch.agency_id, BatchStatus.CANCELLED, contacts_skipped, _shown(batch.in_progress))

    @property
    def numbers(self) -> dict[str, int]:
        """For the log."""
        return {"skipped": self.contacts_skipped, "in_progress": self.in_progress}


@dataclass(frozen=True)
class PauseResult:
    """
    What a pause or a resume did, or would do.

    ``status`` is the batch's new one and ``paused_at`` when it was paused, None if it goes on. ``queued`` and
    ``in_progress`` are the batch's own counters: the contacts left to dial, and the calls that are under way.
    """

    batch_id: UUID
    agency_id: UUID
    status: BatchStatus
    paused_at: datetime | None
    queued: int
    in_progress: int

    @classmethod
    def of(cls, batch: CallBatch, status: BatchStatus, *, paused_at: datetime | None) -> PauseResult:
        """What it is for a batch as it was read."""
        return cls(batch.pk, batch.agency_id, status, paused_at, _shown(batch.queued), _shown(batch.in_progress))

    @property
    def numbers(self) -> dict[str, int]:
        """For the log."""
        return {"queued": self.queued, "in_progress": self.in_progress}


@dataclass(frozen=True)
class Discrepancy:
    """
    What a batch says otherwise than its contacts do.

    ``counters`` has each wrong counter with what it said and what a fresh count says. ``waiting`` is how many contacts
    were left to dial in a batch that has ended.
    """

    batch_id: UUID
    status: str
    counters: dict[str, tuple[int, int]]
    waiting: int
