"""Cancel batches from a terminal, in an incident."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from calls.audit import Actor, Source
from calls.exceptions import BatchUpdateFailed
from calls.management.batch_command import BatchCommand, Outcome
from calls.models import CallBatch, CancelResult
from calls.models.querysets import CallBatchQuerySet


class Command(BatchCommand):
    verb, done, takes_reason, batch_ids_needed = "cancel", "cancelled", True, "*"
    help = (
        "Cancels batches: skips every contact that was not called yet. Calls in progress continue, and no new call "
        "starts. Each batch has its own transaction. Exits with 0 when all are cancelled, 1 when any was refused or is "
        "unknown (the others are still cancelled), 2 for bad usage (nothing is done). With --all and --agency, cancels "
        "every batch of the agency that can be cancelled, the one with the latest activity first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--all", action="store_true", help="cancel all batches of the agency that --agency names")

    def handle(self, **options: Any) -> None:
        if options["all"] and (options["batch_ids"] or not options["agency"]):
            raise CommandError(
                "--all requires --agency and cannot be combined with batch ids; nothing was done", returncode=2
            )
        if not options["all"] and not options["batch_ids"]:
            raise CommandError("give at least one batch id, or --all and --agency; nothing was done", returncode=2)
        super().handle(**options)

    def outcomes(
        self, batches: CallBatchQuerySet, pks: list[UUID], *, dry_run: bool, reason: str | None
    ) -> Iterator[tuple[UUID, Outcome]]:
        if pks:
            yield from super().outcomes(batches, pks, dry_run=dry_run, reason=reason)
            return
        try:
            all_batches = (
                batches.preview_cancel_all()
                if dry_run
                else batches.cancel_all(actor=Actor.os_user(), source=Source.COMMAND, reason=reason)
            )
            for batch, outcome in all_batches:
                yield batch.pk, outcome
        except BatchUpdateFailed as failed:
            raise CommandError(f"{failed} ({failed.code}): the batches could not be read") from None

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> CancelResult:
        return batch.cancel(actor=actor, source=Source.COMMAND, reason=reason)

    def preview(self, batch: CallBatch) -> CancelResult:
        return batch.preview_cancel()

    def as_text(self, result: CancelResult, *, dry_run: bool) -> str:
        skipped = "Contacts to skip" if dry_run else "Contacts skipped"
        return f"{skipped}: {result.contacts_skipped}. Calls in progress, which will finish: {result.in_progress}."

    def as_data(self, result: CancelResult) -> dict[str, Any]:
        return {"contacts_skipped": result.contacts_skipped, "in_progress": result.in_progress}
