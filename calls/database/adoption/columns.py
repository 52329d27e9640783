"""Columns of an adopted table: existence, type, default, and the values that they hold or refuse."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import connection, models

from calls.database.adoption.catalog import Column, checks_refusing, fetch_column, fetch_count, is_validated
from calls.database.adoption.definitions import concrete_fields, default_sql
from calls.database.adoption.missing_columns import fill_in_sql, survey_missing_column
from calls.database.adoption.report import Report
from calls.database.adoption.steps import Step
from calls.database.adoption.tables import NOT_NEEDED_TO_CANCEL, READ_ONLY, REQUIRED
from calls.statuses import CallStatus, Outcome

COLUMN_TYPES: dict[type[models.Field[Any, Any]], set[str]] = {
    models.UUIDField: {"uuid"},
    models.TextField: {"text", "character varying"},
    models.IntegerField: {"integer", "bigint", "smallint"},
    models.BooleanField: {"boolean"},
    models.DateTimeField: {"timestamp with time zone"},
    models.JSONField: {"jsonb"},
    models.BinaryField: {"bytea"},
}

# More types of text that are enough where the app only reads.
READABLE_TEXT = {"character", "citext"}

# The columns that a cancel writes, except ``updated_at``.
WRITTEN_BY_CANCEL = ["status", "outcome_notes", "error_message", "queued", "skipped", "completed_at"]
# The longest value that the app must be able to store in a text column with a limit.
MIN_LENGTH = 20
# Columns for the provider's error text, of at most 200 characters, with a prefix of the app.
NOTES = ["error_message", "outcome_notes"]
MAX_NOTE = 300
# At most this many unknown values of a column are listed.
MAX_LISTED = 20
# The values that the app writes to columns without choices. Other services may store other values there.
WRITTEN_VALUES = {("calls", "status"): CallStatus.values, ("campaign_contacts", "outcome"): Outcome.values}


def survey_columns(report: Report, model: type[models.Model], columns: dict[str, Column]) -> set[str]:
    """
    Add to the report which columns and defaults are missing.

    :returns: the existing columns that the app cannot work with. The report says why.
    """
    unusable = set()
    for field in concrete_fields(model):
        column = columns.get(field.column)
        if column is None:
            survey_missing_column(report, model, field, columns)
            continue
        if not _survey_type(report, field, column):
            unusable.add(field.column)
        elif field.has_db_default() and not column.has_default and report.name not in READ_ONLY:
            report.missing_steps.append(_default_step(model, field))
        _survey_nulls(report, field, columns)
        _survey_not_null(report, field, column)
    if "id" in columns and not fetch_count(
        f"SELECT count(*) FROM pg_index WHERE indrelid = '{report.name}'::regclass AND indisunique AND indpred IS NULL"
        f" AND indkey::text = (SELECT attnum::text FROM pg_attribute"
        f" WHERE attrelid = '{report.name}'::regclass AND attname = 'id')"
    ):
        report.add_problem(
            "id has no unique index",
            sql=f"CREATE UNIQUE INDEX CONCURRENTLY {report.name}_id_unique ON {report.name} (id);",
        )
    return unusable


def survey_values(report: Report, model: type[models.Model], columns: dict[str, Column]) -> None:
    """
    Add to the report which values conflict with the app's. ``columns`` are those that the app can work with.

    Each value that the app writes must be allowed, and a column with choices must hold no other value.
    """
    for field in concrete_fields(model):
        column, known = columns.get(field.column), _known_values(report, field)
        if column is None or not known:
            continue
        for constraint, refused in checks_refusing(report.name, field.column, column.type, known):
            report.add_problem(
                f"the constraint {constraint} does not allow {field.column} to be {_quoted(refused)}",
                "Drop it, or replace it by one that allows these values.",
                sql=f"ALTER TABLE {report.name} DROP CONSTRAINT {constraint};",
            )
        if not field.choices or column.enum_labels:
            continue
        if any(is_validated(report.name, constraint.name) for constraint in model._meta.constraints):
            continue
        stored = fetch_column(
            f"SELECT DISTINCT {field.column}::text FROM {report.name} WHERE {field.column} IS NOT NULL"
        )
        if unknown := [value for value in stored if value not in known]:
            report.add_problem(
                f"{field.column} has an unknown value in some rows: {_quoted(unknown[:MAX_LISTED])}",
                f"Use one of {_quoted(known)}.",
            )


def _survey_type(report: Report, field: Any, column: Column) -> bool:
    """Return whether the app can work with the column, and add to the report what prevents it."""
    field_class, is_read_only = _field_class(field), report.name in READ_ONLY
    is_text = field_class is models.TextField
    # Values of the type character are padded with spaces, so they are enough only for display.
    is_padded = column.type == "character" and field.column in REQUIRED[report.name]
    is_readable = is_read_only and column.type in READABLE_TEXT and not is_padded
    must_fit = field.column in WRITTEN_BY_CANCEL or (report.name, field.column) in WRITTEN_VALUES
    if not (
        getattr(field, "takes_any_column_type", False)
        or column.type in COLUMN_TYPES[field_class]
        or (is_text and (column.enum_labels or is_readable))
    ):
        allowed, wanted = " or ".join(sorted(COLUMN_TYPES[field_class])), field.db_type(connection)
        report.add_problem(
            f"{field.column} has the type {column.type}",
            f"The app needs {allowed}. If the values can be converted, and other services can work with that type:\n"
            f"ALTER TABLE {report.name} ALTER COLUMN {field.column} TYPE {wanted} USING {field.column}::{wanted};",
        )
        return False
    if is_read_only:
        return True
    if column.is_generated:
        report.add_problem(f"{field.column} is generated by the database", "The app must be able to write it.")
        return False
    if column.max_length:
        problem = f"{field.column} holds at most {column.max_length} characters"
        widen = f"ALTER TABLE {report.name} ALTER COLUMN {field.column} TYPE text;"
        if must_fit and column.max_length < MIN_LENGTH:
            report.add_problem(problem, sql=widen)
        elif field.column in NOTES and column.max_length < MAX_NOTE:
            report.add_warning(f"{problem}, too short for the provider's error texts", sql=widen)
    written = _known_values(report, field) or ([field.default] if field.has_default() else [])
    missing_labels = (
        [value for value in written if value not in column.enum_labels] if column.enum_labels is not None else []
    )
    for value in missing_labels:
        report.add_problem(
            f"{field.column} has the enum type {column.type}, which does not have the value '{value}'",
            sql=f"ALTER TYPE {column.type} ADD VALUE IF NOT EXISTS '{value}';",
        )
    return not missing_labels


def _survey_nulls(report: Report, field: Any, columns: dict[str, Column]) -> None:
    """
    Report NULL where a value is needed.

    ``users`` and ``campaigns`` are not checked: their rows without an agency belong to none.
    """
    is_required = field.column in REQUIRED[report.name] and not field.null
    if not is_required or columns[field.column].not_null:
        return
    if report.name in READ_ONLY:
        is_checked = report.name in NOT_NEEDED_TO_CANCEL
    else:
        is_checked = field.is_relation or bool(field.choices)
    if not is_checked:
        return
    condition = f"{field.column} IS NULL"
    if report.name == "campaign_contacts" and "batch_id" in columns:
        # A contact without a batch is never called.
        condition += " AND batch_id IS NOT NULL"
    nulls = fetch_count(f"SELECT count(*) FROM {report.name} WHERE {condition}")
    if nulls:
        fill_in = fill_in_sql(report.name, field.column, columns)
        advice = "Fill it in: the app needs it in every row."
        if fill_in:
            advice = "Some rows may refer to nothing that it can be derived from. Fill these in yourself."
        report.add_problem(f"{field.column} is NULL in {nulls} rows", advice, sql=fill_in)


def _survey_not_null(report: Report, field: Any, column: Column) -> None:
    """Warn of a column that does not allow NULL although the dialler writes NULL to it. A cancel never does."""
    if column.not_null and field.null and not field.is_relation and report.name not in READ_ONLY:
        report.add_warning(
            f"{field.column} does not allow NULL, so no batch can be created or dialled",
            sql=f"ALTER TABLE {report.name} ALTER COLUMN {field.column} DROP NOT NULL;",
        )


def _default_step(model: type[models.Model], field: Any) -> Step:
    table, default = model._meta.db_table, default_sql(field)
    return Step(
        table,
        f"default of {field.column}: {default}",
        f"ALTER TABLE {table} ALTER COLUMN {field.column} SET DEFAULT {default}",
        f"ALTER TABLE {table} ALTER COLUMN {field.column} DROP DEFAULT",
        f"SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum"
        f" WHERE adrelid = to_regclass('{table}') AND attname = '{field.column}'",
    )


def _field_class(field: models.Field[Any, Any]) -> type[models.Field[Any, Any]]:
    target = field.target_field if isinstance(field, models.ForeignKey) else field
    return next(field_class for field_class in COLUMN_TYPES if isinstance(target, field_class))


def _known_values(report: Report, field: Any) -> list[str]:
    """Return every value that the app writes to the field. Empty if it can be anything."""
    return [value for value, _ in field.flatchoices] or WRITTEN_VALUES.get((report.name, field.column), [])


def _quoted(values: Collection[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)
