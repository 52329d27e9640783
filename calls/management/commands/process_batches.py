"""One pass of the dialler, without a worker."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from calls.dialler import passes as processing
from calls.exceptions import CallsError


class Command(BaseCommand):
    help = (
        "Dials once what is due, as a worker does every minute, for cron: starts batches whose time has come, places "
        "as many calls as each may begin, and ends within a minute. Any number of these and workers may run at once. "
        "Prints a JSON object of what it did. Exits with 1 if the database cannot be asked."
    )

    def handle(self, **options: Any) -> None:
        try:
            result = processing.run_pass()
        except CallsError as failed:
            raise CommandError(f"{failed} ({failed.code}): nobody was called") from None
        self.stdout.write(json.dumps(asdict(result)))
