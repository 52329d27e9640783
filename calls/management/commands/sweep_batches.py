"""Find calls that nobody knows the end of, and ask the provider about them."""

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from calls.dialler import passes as processing
from calls.exceptions import CallsError


class Command(BaseCommand):
    help = (
        "Asks the provider about contacts that were claimed and whose call was never recorded, since their worker died "
        "or its answer was lost: records the call if there is one, and gives the contact back only if there is none. "
        "Asks likewise about calls of which nothing was heard for long. Prints a JSON object of what it did. Exits "
        "with 1 while something remains unclear."
    )

    def handle(self, **options: Any) -> None:
        try:
            result = processing.sweep()
        except CallsError as failed:
            raise CommandError(f"{failed} ({failed.code}): nothing was changed") from None
        self.stdout.write(json.dumps(asdict(result)))
        if result.unclear:
            sys.exit(1)
