"""Pause batches from a terminal: nobody is called until they are resumed."""

from typing import Any

from calls.management.batch_command import BatchCommand
from calls.models import PauseResult


class Command(BatchCommand):
    verb, done = "pause", "paused"
    help = (
        "Pauses batches that are processing or scheduled: calls in progress end, and no new one starts until they are "
        "resumed. Each batch in its own transaction. Exits with 0 when all are paused, 1 when any was refused or is "
        "unknown (the others are still paused), 2 for bad usage (nothing is done)."
    )

    def as_text(self, result: PauseResult, *, dry_run: bool) -> str:
        return (
            f"Contacts left to dial, which wait: {result.queued}. "
            f"Calls in progress, which will finish: {result.in_progress}."
        )

    def as_data(self, result: PauseResult) -> dict[str, Any]:
        return result.numbers
