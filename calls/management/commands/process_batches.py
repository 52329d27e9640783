"""Run one pass of the dialler, without a worker."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from calls.dialler.passes import run_pass
from calls.exceptions import CallsError
from calls.management.database_errors import database_required


class Command(BaseCommand):
    help = (
        "Runs one pass of the dialler, for cron: starts the batches that are due, places as many calls as their limits "
        "allow, and ends within a minute. Passes and workers may run at the same time. Prints the result as a JSON "
        "object. Exits with 1 if the database cannot be read."
    )

    @database_required()
    def handle(self, **options: Any) -> None:
        try:
            result = run_pass()
        except CallsError as failed:
            raise CommandError(f"{failed} ({failed.code}): no call was placed") from None
        self.stdout.write(json.dumps(asdict(result)))
