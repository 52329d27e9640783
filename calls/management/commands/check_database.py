"""Compare the database's tables with what the app needs of them, before anything is changed."""

import sys
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand

from calls.database.adoption.survey import survey
from calls.database.adoption.table import report


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Says table by table what is there, what a migration will add, and what is in the way. Changes nothing. "
        "Exits with 0 when nothing is in the way, else 1."
    )

    def handle(self, **options: Any) -> None:
        tables = survey(apps)
        self.stdout.write(report(tables))
        if any(table.obstacles for table in tables):
            sys.exit(1)
