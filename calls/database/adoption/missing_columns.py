"""Columns that an adopted table does not have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import models

from calls.database.adoption.definitions import add_column_sql, add_nullable_column_sql
from calls.database.adoption.report import Report
from calls.database.adoption.steps import Step
from calls.database.adoption.tables import DERIVED, NOT_NEEDED_TO_CANCEL, READ_ONLY, REQUIRED


def survey_missing_column(report: Report, model: type[models.Model], field: Any, columns: Collection[str]) -> None:
    """Add to the report the step that adds the column, or the decision that a person has to make first."""
    if field.column in REQUIRED[report.name]:
        _survey_missing_required_column(report, model, field, columns)
        if field.primary_key or report.name not in NOT_NEEDED_TO_CANCEL:
            return
    has_default = field.has_db_default() and report.name not in READ_ONLY
    report.missing_steps.append(
        Step(
            report.name,
            f"column {field.column}",
            add_column_sql(model, field) if has_default else add_nullable_column_sql(model, field),
            f"ALTER TABLE {report.name} DROP COLUMN {field.column}",
            f"SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
            f" WHERE attrelid = to_regclass('{report.name}') AND attname = '{field.column}'",
        )
    )


def _survey_missing_required_column(
    report: Report, model: type[models.Model], field: Any, columns: Collection[str]
) -> None:
    """Report a missing column that needs a value in every row, with the statements that add it."""
    table, column = report.name, field.column
    fill_in = fill_in_sql(table, column, columns)
    statements = [
        f"{add_nullable_column_sql(model, field)};",
        fill_in or f"UPDATE {table} SET {column} = …;",
        "" if field.null else f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL;",
    ]
    problem, sql = f"the column {column} is missing", "\n".join(filter(None, statements))
    if fill_in:
        report.add_problem(problem, sql=sql)
    else:
        report.add_problem(problem, f"Add it, and decide the value of each row:\n{sql}")


def fill_in_sql(table: str, column: str, columns: Collection[str]) -> str:
    """Return the statement that fills in the column from the rows that a row refers to. Empty if there are none."""
    sources = [
        f"(SELECT {column} FROM {source} WHERE id = {table}.{reference})"
        for source, reference in DERIVED.get((table, column), [])
        if reference in columns
    ]
    if not sources:
        return ""
    value = f"COALESCE({', '.join(sources)})" if len(sources) > 1 else sources[0]
    return f"UPDATE {table} SET {column} = {value} WHERE {column} IS NULL;"
