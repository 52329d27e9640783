"""What a model defines, and the SQL that Django's schema editor generates for it."""

from __future__ import annotations

from typing import Any

from django.db import connection, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def concrete_fields(model: type[models.Model]) -> list[Any]:
    """Return the fields that have a column. Typed as Any, because ``Field`` itself does not declare ``column``."""
    return list(model._meta.concrete_fields)


def add_column_sql(model: type[models.Model], field: Any) -> str:
    with _schema_editor() as editor:
        definition, parameters = editor.column_sql(model, field)
        sql = editor.sql_create_column % {
            "table": editor.quote_name(model._meta.db_table),
            "column": editor.quote_name(field.column),
            "definition": definition,
        }
        editor.execute(sql, parameters)
    return _collected(editor)


def add_nullable_column_sql(model: type[models.Model], field: Any) -> str:
    """Return the statement that adds the field's column without a default and without a constraint."""
    return f"ALTER TABLE {model._meta.db_table} ADD COLUMN {field.column} {field.db_type(connection)}"


def create_table_sql(model: type[models.Model]) -> str:
    """Return the statement that creates the model's table. Foreign keys would lock other tables: it has none."""
    with _schema_editor() as editor:
        editor.execute(*editor.table_sql(model))
    return _collected(editor)


def default_sql(field: Any) -> str:
    """Return the database default of the field as an SQL expression."""
    with _schema_editor() as editor:
        editor.execute(*editor.db_default_sql(field))
    return _collected(editor)


def create_index_sql(model: type[models.Model], index: models.Index) -> str:
    return str(index.create_sql(model, _schema_editor(), concurrently=True))


def add_constraint_sql(model: type[models.Model], constraint: models.CheckConstraint) -> str:
    return str(constraint.create_sql(model, _schema_editor()))


def _schema_editor() -> BaseDatabaseSchemaEditor:
    """Return a schema editor that collects statements instead of executing them."""
    return connection.schema_editor(collect_sql=True, atomic=False)


def _collected(editor: BaseDatabaseSchemaEditor) -> str:
    return str(editor.collected_sql[0]).rstrip(";")
