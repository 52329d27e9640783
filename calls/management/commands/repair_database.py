"""Restore defaults, indexes, constraints and triggers that were removed from the database."""

from typing import Any

import pgtrigger
from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection
from psycopg.errors import LockNotAvailable

from calls.checks import is_migrated
from calls.database.adoption import steps
from calls.database.adoption.survey import missing_steps
from calls.database.triggers import RUN_AS_OWNER
from calls.management.database_errors import database_required


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Adds missing defaults, indexes and constraints, and reinstalls the triggers for the guards and the history. "
        "Other services can keep writing. The command can be repeated. Needs a database with all migrations applied."
    )

    @database_required()
    def handle(self, **options: Any) -> None:
        if not is_migrated():
            raise CommandError(
                "run the migrations first: python manage.py migrate (with --fake-initial if the tables already exist)"
            )
        missing = missing_steps(apps)
        try:
            steps.apply(missing)
            steps.run_with_short_lock_timeout(self._install_triggers)
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            raise CommandError(f"another transaction keeps a table locked: {error}") from error
        self.stdout.write("All defaults, indexes, constraints and triggers of the app are in place.")

    def _install_triggers(self) -> None:
        pgtrigger.install()
        with connection.cursor() as cursor:
            cursor.execute(RUN_AS_OWNER)
