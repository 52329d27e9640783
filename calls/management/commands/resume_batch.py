"""Let paused batches go on, from a terminal."""

from typing import Any

from calls.management.batch_command import BatchCommand
from calls.models import PauseResult


class Command(BatchCommand):
    verb, done = "resume", "resumed"
    help = (
        "Lets paused batches go on: at their scheduled time while that is ahead, else now. Each batch in its own "
        "transaction. Exits with 0 when all are resumed, 1 when any was refused or is unknown (the others are still "
        "resumed), 2 for bad usage (nothing is done)."
    )

    def as_text(self, result: PauseResult, *, dry_run: bool) -> str:
        return f"Status: {result.status}. Contacts left to dial: {result.queued}."

    def as_data(self, result: PauseResult) -> dict[str, Any]:
        return {"status": result.status, **result.numbers}
