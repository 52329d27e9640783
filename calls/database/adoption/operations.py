"""Migration operations for tables that other services are writing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from pgtrigger.migrations import AddTrigger, RemoveTrigger

from calls.database.adoption import steps
from calls.database.adoption.survey import missing_steps
from calls.database.triggers import RUN_AS_OWNER


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


def replace_guards(module: str, guards: list[AddTrigger]) -> list[Operation]:
    """
    Return the operations that replace guards of ``campaign_contacts`` with new versions under the same names.

    The replacement takes milliseconds. Other services wait meanwhile, so that no row is written without a guard.

    :param module: the migration with the previous versions, which undoing this installs again.
    """

    def install(triggers: list[Any], schema_editor: BaseDatabaseSchemaEditor) -> None:
        def replace() -> None:
            schema_editor.execute("LOCK TABLE campaign_contacts IN ACCESS EXCLUSIVE MODE")
            for trigger in triggers:
                schema_editor.execute(trigger.install_sql, params=None)
            # Replacing a function resets its rights (SECURITY DEFINER) and its search path.
            schema_editor.execute(RUN_AS_OWNER, params=None)

        steps.run_with_short_lock_timeout(replace)

    def install_new(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        install([guard.trigger for guard in guards], schema_editor)

    def install_old(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        names = {guard.trigger.name for guard in guards}
        earlier = import_module(f"calls.migrations.{module}")
        added = getattr(earlier, "NEW_GUARDS", earlier.Migration.operations)
        triggers = [operation.trigger for operation in added if isinstance(operation, AddTrigger)]
        install([trigger for trigger in triggers if trigger.name in names], schema_editor)

    return [
        # Change Django's state first. It takes much longer than the SQL, and must not happen under the lock.
        migrations.SeparateDatabaseAndState(
            state_operations=[
                *(RemoveTrigger(model_name=guard.model_name, name=str(guard.trigger.name)) for guard in guards),
                *guards,
            ]
        ),
        migrations.RunPython(install_new, install_old),
    ]
