"""End the hold of an agency from a terminal."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.audit import Actor, Source
from calls.exceptions import CallsError
from calls.management.batch_command import find_agency
from calls.management.database_errors import database_required


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Ends the hold of an agency. Batches that are paused, cancelled or scheduled for later still start no calls. "
        "Exits with 1 if the agency could not be released, 2 for bad usage. Releasing an agency that is not on hold is "
        "not an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="the agency")

    @database_required()
    def handle(self, *, slug: str, **options: Any) -> None:
        try:
            find_agency(slug).release(actor=Actor.os_user(), source=Source.COMMAND)
        except CallsError as refusal:
            raise CommandError(f"{slug}: nothing was changed: {refusal} ({refusal.code})") from None
        self.stdout.write(f"{slug}: not on hold.")
