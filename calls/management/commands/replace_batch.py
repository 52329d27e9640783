"""Create a batch with the contacts that the cancel of another batch skipped."""

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.audit import Actor, Source
from calls.exceptions import BatchCreateFailed, CallsError, FieldInvalid, FieldRequired
from calls.inputs import NewReplacement
from calls.management.batch_command import batch_id, batches_of
from calls.management.database_errors import database_required

# The options that change what is taken from the cancelled batch: the field of NewReplacement, and the metavariable.
OPTIONS = {
    "--agent-mapping": ("agent_mapping_id", "ID", str),
    "--campaign": ("campaign_id", "ID", str),
    "--from-number": ("from_number", "NUMBER", str),
    "--calls-per-minute": ("calls_per_minute", "N", int),
    "--max-concurrent": ("max_concurrent", "N", int),
    "--scheduled-for": ("scheduled_for", "TIME", str),
}


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Creates a batch with the contacts that the cancel of BATCH_ID skipped, in their order. Contacts that were "
        "called, or must not be called, are left out. Values that are not given as options are copied from the "
        "cancelled batch, except the start time. Exits with 1 if nothing was created, 2 for bad usage."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch_id", metavar="BATCH_ID", type=batch_id)
        parser.add_argument("--agency", metavar="SLUG", help="find only a batch of this agency")
        for option, (field, metavar, value_type) in OPTIONS.items():
            parser.add_argument(option, dest=field, metavar=metavar, type=value_type)

    @database_required()
    def handle(self, *, batch_id: UUID, agency: str | None, **options: Any) -> None:
        fields = {field: options[field] for field, *_ in OPTIONS.values()}
        try:
            new = NewReplacement.parse(fields | {"replaces": str(batch_id)})
            cancelled = batches_of(agency).find(batch_id, failure=BatchCreateFailed)
            batch = cancelled.replace(new, actor=Actor.os_user(), source=Source.COMMAND).batch
        except CallsError as refusal:
            returncode = 2 if isinstance(refusal, FieldInvalid | FieldRequired) else 1
            raise CommandError(f"{batch_id}: not replaced: {refusal} ({refusal.code})", returncode=returncode) from None
        self.stdout.write(f"{batch_id}: replaced by {batch.pk}, {batch.status}. Contacts: {batch.total_contacts}.")
