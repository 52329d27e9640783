"""Pause batches from a terminal."""

from typing import Any

from calls.audit import Actor, Source
from calls.management.batch_command import BatchCommand
from calls.models import CallBatch, PauseResult


class Command(BatchCommand):
    verb, done, takes_reason = "pause", "paused", True
    help = (
        "Pauses batches that are processing or scheduled. Calls in progress continue, and no new call starts until the "
        "batch is resumed. Each batch has its own transaction. Exits with 0 when all are paused, 1 when any was "
        "refused or is unknown (the others are still paused), 2 for bad usage (nothing is done)."
    )

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> PauseResult:
        return batch.pause(actor=actor, source=Source.COMMAND, reason=reason)

    def preview(self, batch: CallBatch) -> PauseResult:
        return batch.preview_pause()

    def as_text(self, result: PauseResult, *, dry_run: bool) -> str:
        return f"Contacts that wait: {result.queued}. Calls in progress, which will finish: {result.in_progress}."

    def as_data(self, result: PauseResult) -> dict[str, Any]:
        return result.numbers
