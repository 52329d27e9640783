"""Keep the agencies' tables when migrations are undone."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.db.migrations import Migration

FIRST_MIGRATION = ("calls", "0001_initial")


def refuse_to_drop_tables(plan: list[tuple[Migration, bool]], **kwargs: Any) -> None:
    """
    Stop a migration that would drop the agencies' tables, before its first step. A receiver of ``pre_migrate``.

    :raises CommandError: the plan undoes the migration that created the tables, or adopted them.
    """
    if any(backwards and (each.app_label, each.name) == FIRST_MIGRATION for each, backwards in plan):
        raise CommandError(
            "The agencies' tables are not dropped, because they hold the agencies' data. Nothing was changed. "
            "To remove what was added to them: python manage.py migrate --skip-checks calls 0001"
        )
