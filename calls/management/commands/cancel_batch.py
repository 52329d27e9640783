"""Cancel batches from a terminal, in an incident."""

from typing import Any

from calls.audit import Actor, Source
from calls.management.batch_command import BatchCommand
from calls.models import CallBatch, CancelResult


class Command(BatchCommand):
    verb, done = "cancel", "cancelled"
    help = (
        "Cancels batches: skips every contact that was not called yet. Calls in progress continue, and no new call "
        "starts. Each batch has its own transaction. Exits with 0 when all are cancelled, 1 when any was refused or is "
        "unknown (the others are still cancelled), 2 for bad usage (nothing is done)."
    )

    def perform(self, batch: CallBatch, actor: Actor) -> CancelResult:
        return batch.cancel(actor=actor, source=Source.COMMAND)

    def preview(self, batch: CallBatch) -> CancelResult:
        return batch.preview_cancel()

    def as_text(self, result: CancelResult, *, dry_run: bool) -> str:
        skipped = "Contacts to skip" if dry_run else "Contacts skipped"
        return f"{skipped}: {result.contacts_skipped}. Calls in progress, which will finish: {result.in_progress}."

    def as_data(self, result: CancelResult) -> dict[str, Any]:
        return {"contacts_skipped": result.contacts_skipped, "in_progress": result.in_progress}
