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
    """Add to the report the step that adds the column, or what the operator has to decide first."""
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
    add, problem = f"{add_nullable_column_sql(model, field)};", f"the column {column} is missing"
    if fill_in:
        report.add_problem(problem, sql="\n".join([add, fill_in, _fill_in_new_rows_sql(table, column, columns)]))
    else:
        report.add_problem(
            problem,
            "Add it, decide the value of each row, and let every service that adds rows write it:\n"
            f"{add}\nUPDATE {table} SET {column} = …;",
        )


def fill_in_sql(table: str, column: str, columns: Collection[str]) -> str:
    """Return the statement that fills in the column from the rows that a row refers to. Empty if there are none."""
    value = _derived_value(table, column, columns, row=table)
    return f"UPDATE {table} SET {column} = {value} WHERE {column} IS NULL;" if value else ""


def _fill_in_new_rows_sql(table: str, column: str, columns: Collection[str]) -> str:
    """Return the statements of a trigger that fills in the column for services that do not know it."""
    value, function = _derived_value(table, column, columns, row="NEW"), f"fill_in_{table}_{column}"
    return (
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public"
        f" AS $$ BEGIN NEW.{column} := {value}; RETURN NEW; END $$;\n"
        f"CREATE TRIGGER fill_in_{column} BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.{column} IS NULL)"
        f" EXECUTE FUNCTION {function}();"
    )


def _derived_value(table: str, column: str, columns: Collection[str], *, row: str) -> str:
    """Return the SQL that reads the value from the rows that ``row`` refers to. Empty if there are none."""
    sources = [
        f"(SELECT {source}.{column} FROM {source} WHERE id = {row}.{reference})"
        for source, reference in DERIVED.get((table, column), [])
        if reference in columns
    ]
    return f"COALESCE({', '.join(sources)})" if len(sources) > 1 else "".join(sources)
