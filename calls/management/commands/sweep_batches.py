"""Settle calls whose result was never recorded, from stored events and from the provider."""

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from calls.dialler.sweep import run_sweep
from calls.exceptions import CallsError
from calls.management.database_errors import database_required


class Command(BaseCommand):
    help = (
        "Settles claimed contacts whose call was never recorded, because a worker died or the provider's answer was "
        "lost. Records the call if a stored event or the provider has it, else releases the claim. Also looks up "
        "calls that have no recorded end an hour after they began. Prints the result as a JSON object. Exits with 1 if "
        "any call remains unclear."
    )

    @database_required()
    def handle(self, **options: Any) -> None:
        try:
            result = run_sweep()
        except CallsError as failed:
            raise CommandError(f"{failed} ({failed.code}): nothing was changed") from None
        self.stdout.write(json.dumps(asdict(result)))
        if result.unclear:
            sys.exit(1)
