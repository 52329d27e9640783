"""Put back what the promise rests on in the database, whoever has removed it."""

from typing import Any

import pgtrigger
from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection

from calls.checks import is_migrated
from calls.database.adoption import steps
from calls.database.adoption.survey import lacking
from calls.database.triggers import RUN_AS_OWNER


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Adds again what the database lacks of defaults, indexes and constraints, and installs the guards and the "
        "history anew. Beside writers, and as often as one likes. For a database that has been migrated."
    )

    def handle(self, **options: Any) -> None:
        if not is_migrated():
            raise CommandError(
                "run the migrations first: python manage.py migrate (with --fake-initial on tables of others)"
            )
        additions = lacking(apps)
        try:
            steps.apply(additions)
            steps.briefly(self._install_triggers)
        except OperationalError as error:
            raise CommandError(f"a table is locked by others: {error}") from error
        self.stdout.write("The database has everything that the promise rests on.")

    def _install_triggers(self) -> None:
        pgtrigger.install()
        with connection.cursor() as cursor:
            cursor.execute(RUN_AS_OWNER)
