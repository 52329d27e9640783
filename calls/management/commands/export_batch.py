"""Write what became of a batch's contacts to the terminal or a file, as CSV."""

import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.database.transactions import failing_as
from calls.exceptions import BatchReadFailed, CallsError
from calls.export import write_csv
from calls.management.batch_command import batch_id, batches_of, nobody_reads


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Writes the contacts of a batch as CSV: who was called, who was skipped, and why. Exits with 1, and says so, "
        "if the batch is unknown or not all could be written."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch_id", metavar="BATCH_ID", type=batch_id)
        parser.add_argument("--agency", metavar="SLUG", help="find only a batch of this agency")

    def handle(self, *, batch_id: UUID, agency: str | None, **options: Any) -> None:
        try:
            with failing_as(BatchReadFailed):
                batch = batches_of(agency).find(batch_id)
            write_csv([batch], self.stdout)
            self.stdout.flush()
        except CallsError as refusal:
            raise CommandError(f"{batch_id}: not exported: {refusal} ({refusal.code})") from None
        except UnicodeEncodeError:
            raise CommandError("names need UTF-8: set PYTHONIOENCODING=utf-8. Not all is written.") from None
        except OSError as error:
            nobody_reads()
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            raise CommandError(f"{batch_id}: not all could be written: {error.strerror}") from None
