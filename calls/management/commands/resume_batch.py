"""Resume paused batches from a terminal."""

from typing import Any

from calls.audit import Actor, Source
from calls.management.batch_command import BatchCommand
from calls.models import CallBatch, PauseResult


class Command(BatchCommand):
    verb, done = "resume", "resumed"
    help = (
        "Resumes paused batches, at their scheduled time if it is in the future, else now. Each batch has its own "
        "transaction. Exits with 0 when all are resumed, 1 when any was refused or is unknown (the others are still "
        "resumed), 2 for bad usage (nothing is done)."
    )

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> PauseResult:
        return batch.resume(actor=actor, source=Source.COMMAND)

    def preview(self, batch: CallBatch) -> PauseResult:
        return batch.preview_resume()

    def as_text(self, result: PauseResult, *, dry_run: bool) -> str:
        return f"Status: {result.status}. Contacts left to dial: {result.queued}."

    def as_data(self, result: PauseResult) -> dict[str, Any]:
        return {"status": result.status, **result.numbers}
