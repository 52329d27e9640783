"""Store an agency's own key for Ultravox, read from standard input, or remove it."""

import getpass
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from calls.audit import Actor, Source
from calls.exceptions import CallsError, FieldInvalid
from calls.management.batch_command import find_agency
from calls.management.database_errors import database_required


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Stores the key of an agency's own account at Ultravox, encrypted with CREDENTIALS_KEYS. Reads the key from "
        "standard input; on a terminal it asks for it and does not show it. Workers use the key within a minute. Exits "
        "with 1 if nothing was changed, 2 for bad usage."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="the agency")
        parser.add_argument("--remove", action="store_true", help="remove the agency's key, and read nothing")

    @database_required()
    @sensitive_variables("key")
    def handle(self, *, slug: str, remove: bool, **options: Any) -> None:
        try:
            agency = find_agency(slug)
            if remove:
                agency.remove_ultravox_key(actor=Actor.os_user(), source=Source.COMMAND)
            else:
                key = _read_key()
                agency.set_ultravox_key(key, actor=Actor.os_user(), source=Source.COMMAND)
        except CallsError as refusal:
            returncode = 2 if isinstance(refusal, FieldInvalid) else 1
            raise CommandError(
                f"{slug}: nothing was changed: {refusal} ({refusal.code})", returncode=returncode
            ) from None
        done = "removed. Workers stop using it" if remove else "stored. Workers use it"
        self.stdout.write(f"{slug}: the Ultravox key is {done} within a minute.")


def _read_key() -> str:
    """Return what was typed without echo at a terminal, or all of standard input, without white space around it."""
    try:
        if sys.stdin is None:
            return ""
        if sys.stdin.isatty():
            return getpass.getpass("Ultravox key: ").strip()
        return sys.stdin.read().strip()
    except (EOFError, UnicodeDecodeError):
        # As an empty key, which is refused.
        return ""
