"""The results of a batch's verbs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from calls.statuses import BatchStatus

if TYPE_CHECKING:
    from calls.models.batch import CallBatch


def displayed(counter: int | None) -> int:
    """Return a counter for display: another service may have left it NULL or brought it below zero."""
    return max(counter or 0, 0)


@dataclass(frozen=True)
class CreateResult:
    """The new batch with its agent loaded, and the number of contacts that were dropped as duplicates."""

    batch: CallBatch
    duplicates_removed: int

    @property
    def status(self) -> str:
        """The outcome that is logged."""
        return str(self.batch.status)

    @property
    def numbers(self) -> dict[str, int]:
        """The counts that are logged."""
        return {"contacts": self.batch.total_contacts}


@dataclass(frozen=True)
class CancelResult:
    """
    What a cancel did, or would do.

    ``status`` is ``cancelled``, and in a preview the batch's current status. ``contacts_skipped`` is the number of
    contacts that the UPDATE skipped, or in a preview the number that it would skip. ``in_progress`` is the batch's
    counter of calls in progress, which continue until they end.
    """

    batch_id: UUID
    agency_id: UUID
    status: str
    contacts_skipped: int
    in_progress: int

    @property
    def numbers(self) -> dict[str, int]:
        """The counts that are logged."""
        return {"skipped": self.contacts_skipped, "in_progress": self.in_progress}


@dataclass(frozen=True)
class PauseResult:
    """
    What a pause or a resume did, or would do.

    ``status`` is the batch's new status. ``paused_at`` is None after a resume. ``queued`` and ``in_progress`` are the
    batch's counters of contacts left to call and of calls in progress.
    """

    batch_id: UUID
    agency_id: UUID
    status: BatchStatus
    paused_at: datetime | None
    queued: int
    in_progress: int

    @property
    def numbers(self) -> dict[str, int]:
        """The counts that are logged."""
        return {"queued": self.queued, "in_progress": self.in_progress}


@dataclass(frozen=True)
class HoldResult:
    """
    What a hold or a release did.

    ``held_at`` is None after a release. ``in_progress`` is the number of the agency's calls in progress, which continue
    until they end.
    """

    agency_id: UUID
    held_at: datetime | None
    in_progress: int

    @property
    def status(self) -> str:
        """The outcome that is logged."""
        return "released" if self.held_at is None else "held"

    @property
    def numbers(self) -> dict[str, int]:
        """The counts that are logged."""
        return {"in_progress": self.in_progress}
