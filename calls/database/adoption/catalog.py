"""Queries of PostgreSQL's catalogs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db import connection


@dataclass(frozen=True)
class Column:
    """A column as it is in the database."""

    type: str
    max_length: int | None
    has_default: bool
    is_generated: bool
    not_null: bool
    enum_labels: tuple[str, ...] | None
    """None if its type is not an enum."""


def columns_of(table: str) -> dict[str, Column]:
    """Return the table's columns by name."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT attname, format_type(atttypid, NULL), CASE WHEN atttypmod > 4 THEN atttypmod - 4 END,
                atthasdef OR attidentity <> '', attgenerated <> '' OR attidentity = 'a', attnotnull,
                CASE WHEN typtype = 'e' THEN
                    (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = atttypid)
                END
            FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
            WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
            """,
            [table],
        )
        return {
            name: Column(type_, max_length, default, generated, not_null, labels and tuple(labels))
            for name, type_, max_length, default, generated, not_null, labels in cursor.fetchall()
        }


def checks_refusing(table: str, column: str, type_: str, values: Collection[str]) -> list[tuple[str, list[str]]]:
    """
    Return the column's CHECK constraints that refuse some of the values, each with the values that it refuses.

    PostgreSQL evaluates each constraint for each value. Constraints over several columns are left out.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT quote_ident(conname), pg_get_expr(conbin, conrelid) FROM pg_constraint JOIN pg_attribute
                ON attrelid = conrelid AND conkey = ARRAY[attnum]
            WHERE contype = 'c' AND conrelid = %s::regclass AND attname = %s
            """,
            [table, column],
        )
        refusing = []
        for name, expression in cursor.fetchall():
            rows = f"(SELECT value::{type_} AS {column} FROM unnest(%s::text[]) AS value) AS rows"
            condition = expression.replace("%", "%%")
            cursor.execute(f"SELECT {column}::text FROM {rows} WHERE ({condition}) IS FALSE", [list(values)])
            refused = [value for (value,) in cursor.fetchall()]
            if refused:
                refusing.append((name, refused))
    return refusing


def multi_column_checks(table: str, columns: list[str]) -> list[str]:
    """
    Return the definitions of CHECK constraints over several columns, at least one of them in ``columns``.

    What such a constraint allows cannot be found out by a program, so the operator has to read it.
    """
    return fetch_column(
        "SELECT conname || ' ' || pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint WHERE contype = 'c'"
        " AND conrelid = %s::regclass AND cardinality(conkey) > 1 AND EXISTS (SELECT FROM pg_attribute WHERE"
        " attrelid = conrelid AND attnum = ANY (conkey) AND attname = ANY (%s))",
        *(table, columns),
    )


def is_validated(table: str, constraint: str) -> bool | None:
    """Return whether the constraint has been validated for all rows. None if there is no such constraint."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s", [table, constraint]
        )
        row = cursor.fetchone()
    return bool(row[0]) if row else None


def fetch_column(sql: str, *parameters: str | list[str]) -> list[str]:
    """Run the query and return the first column of its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return [value for (value,) in cursor.fetchall()]


def fetch_count(sql: str) -> int:
    """Run a query that returns one number."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])
