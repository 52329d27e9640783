"""Cancel batches from a terminal, in an incident."""

from typing import Any

from calls.management.batch_command import BatchCommand
from calls.models import CancelResult


class Command(BatchCommand):
    verb, done = "cancel", "cancelled"
    help = (
        "Cancels batches: skips every contact not yet called, lets calls in progress end, starts no new one. "
        "Each batch in its own transaction. Exits with 0 when all are cancelled, 1 when any was refused or is "
        "unknown (the others are still cancelled), 2 for bad usage (nothing is done)."
    )

    def as_text(self, result: CancelResult, *, dry_run: bool) -> str:
        skipped = "Contacts to skip" if dry_run else "Contacts skipped"
        return f"{skipped}: {result.contacts_skipped}. Calls in progress, which will finish: {result.in_progress}."

    def as_data(self, result: CancelResult) -> dict[str, Any]:
        return {"contacts_skipped": result.contacts_skipped, "in_progress": result.in_progress}
