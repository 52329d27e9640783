"""Hold an agency from a terminal, in an incident: no call starts in any of its batches."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.audit import Actor, Source
from calls.exceptions import CallsError
from calls.management.batch_command import add_reason_argument, find_agency
from calls.management.database_errors import database_required


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Holds an agency: no call starts in any of its batches, now or later, until release_agency. Calls in progress "
        "continue. Batches keep their status. Exits with 1 if the hold could not be stored or confirmed, 2 for bad "
        "usage."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="the agency")
        add_reason_argument(parser)

    @database_required()
    def handle(self, *, slug: str, reason: str | None, **options: Any) -> None:
        try:
            result = find_agency(slug).hold(actor=Actor.os_user(), source=Source.COMMAND, reason=reason)
        except CallsError as refusal:
            raise CommandError(f"{slug}: {refusal} ({refusal.code})") from None
        since = f"{result.held_at:%Y-%m-%d %H:%M:%S} UTC"
        self.stdout.write(f"{slug}: on hold since {since}. Calls in progress, which will finish: {result.in_progress}.")
