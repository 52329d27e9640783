"""Indexes of an adopted table, unique ones included."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db import connection, models

from calls.database.adoption.catalog import fetch_count
from calls.database.adoption.definitions import concrete_fields, create_index_sql
from calls.database.adoption.report import Report
from calls.database.adoption.steps import Step


@dataclass(frozen=True)
class Index:
    """A valid B-tree index in the database. ``keys`` are columns or expressions, without their sort order."""

    name: str
    keys: list[str]
    is_unique: bool
    is_partial: bool


def survey_indexes(
    report: Report, model: type[models.Model], columns: Collection[str], unusable: Collection[str]
) -> None:
    """
    Report the missing indexes. An index of another service with the same first columns is enough.

    :param columns: the columns that exist.
    :param unusable: those that the app cannot work with. They get no unique index.
    """
    existing = _indexes_of(report.name)
    complete = [index for index in existing if not index.is_partial]
    column_of = {field.name: field.column for field in concrete_fields(model)}
    for index in model._meta.indexes:
        keys = [column_of[name] for name, _ in index.fields_orders]
        if index.condition or index.expressions:
            # Conditions and expressions are not compared, so only the app's own index will do.
            exists = any(each.name == index.name for each in existing)
        else:
            exists = any(each.keys[: len(keys)] == keys for each in complete)
        if not exists:
            _add_index(report, index.name, keys, create_index_sql(model, index))
    unique = [index.keys for index in complete if index.is_unique]
    for field in concrete_fields(model):
        if field.unique and not field.primary_key and [field.column] not in unique and field.column not in unusable:
            _survey_unique_column(report, field.column, exists=field.column in columns)


def _indexes_of(table: str) -> list[Index]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT relname, (
                SELECT array_agg(pg_get_indexdef(indexrelid, key, true) ORDER BY key)
                FROM generate_series(1, indnkeyatts) AS key
            ), indisunique, indpred IS NOT NULL
            FROM pg_index JOIN pg_class ON oid = indexrelid
            WHERE indrelid = %s::regclass AND indisvalid
                AND relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
            """,
            [table],
        )
        return [Index(*row) for row in cursor.fetchall()]


def _survey_unique_column(report: Report, column: str, *, exists: bool) -> None:
    duplicates = exists and fetch_count(
        f"SELECT count(*) FROM (SELECT 1 FROM {report.name} GROUP BY {column} HAVING count(*) > 1"
        f" AND {column} IS NOT NULL) AS duplicates"
    )
    if duplicates:
        report.add_problem(f"{duplicates} values of {column} occur in more than one row", "Make them unique.")
        return
    name = f"{report.name}_{column}_unique"
    create = f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {report.name} ({column})"
    _add_index(report, name, [column], create)


def _add_index(report: Report, name: str, columns: list[str], create: str) -> None:
    # An interrupted build leaves an invalid index with this name on this table. The step replaces it.
    name_is_taken = fetch_count(
        f"SELECT count(*) FROM pg_class LEFT JOIN pg_index ON indexrelid = oid WHERE oid = to_regclass('public.{name}')"
        f" AND (indrelid IS DISTINCT FROM '{report.name}'::regclass OR indisvalid)"
    )
    if name_is_taken:
        report.add_problem(
            f"the name {name}, which an index of the app needs, is taken",
            sql=f"ALTER INDEX {name} RENAME TO {name}_legacy;",
        )
        return
    listed = f" ({', '.join(columns)})" if columns else ""
    report.missing_steps.append(
        Step(
            report.name,
            f"index {name}{listed}, built concurrently",
            create,
            f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
            f"SELECT pg_get_indexdef(to_regclass('{name}'))",
            concurrently=True,
        )
    )
