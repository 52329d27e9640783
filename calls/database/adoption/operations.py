"""The migration operation that adds what the tables are missing."""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from calls.database.adoption import steps
from calls.database.adoption.survey import missing_steps


def add_missing(*additions: str) -> migrations.RunPython:
    """
    Return an operation that adds everything that the models of this migration need. The migration must not be atomic.

    :param additions: prefixes of the descriptions of the additions that its reverse undoes. Without any, it undoes all.
    """

    def apply(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        steps.apply(missing_steps(apps))

    def undo(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        steps.undo(*additions)

    return migrations.RunPython(apply, undo)
