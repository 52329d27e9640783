"""List what adoption would add to the database and what prevents it. Run it before the first migration."""

import sys
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandParser

from calls.database.adoption.report import format_reports, format_script
from calls.database.adoption.survey import survey
from calls.management.database_errors import database_required


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Lists for each table what exists, what migrate will add and which obstacles prevent it. Changes nothing. "
        "Exits with 0 if there is no obstacle, else 1."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--sql",
            action="store_true",
            help="print the statements that remove the obstacles and warnings as a script, to be reviewed and run",
        )

    @database_required()
    def handle(self, *, sql: bool, **options: Any) -> None:
        reports = survey(apps)
        self.stdout.write(format_script(reports) if sql else format_reports(reports))
        if any(report.obstacles for report in reports):
            sys.exit(1)
