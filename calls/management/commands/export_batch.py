"""Write a batch's contacts and their outcomes to standard output, as CSV."""

import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.exceptions import BatchReadFailed, CallsError
from calls.export import write_csv
from calls.management.batch_command import batch_id, batches_of, redirect_stdout_to_devnull
from calls.management.database_errors import database_required


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Writes the contacts of a batch and their outcomes as CSV. Exits with 1 and an error message if the batch is "
        "unknown or the file is incomplete."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch_id", metavar="BATCH_ID", type=batch_id)
        parser.add_argument("--agency", metavar="SLUG", help="find only a batch of this agency")

    @database_required()
    def handle(self, *, batch_id: UUID, agency: str | None, **options: Any) -> None:
        try:
            batch = batches_of(agency).find(batch_id, failure=BatchReadFailed)
            write_csv([batch], self.stdout)
            self.stdout.flush()
        except CallsError as refusal:
            raise CommandError(f"{batch_id}: not exported: {refusal} ({refusal.code})") from None
        except UnicodeEncodeError:
            raise CommandError("a name needs UTF-8: set PYTHONIOENCODING=utf-8. The file is incomplete.") from None
        except OSError as error:
            redirect_stdout_to_devnull()
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            raise CommandError(f"{batch_id}: the file is incomplete: {error.strerror}") from None
