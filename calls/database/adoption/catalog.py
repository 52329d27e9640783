"""What PostgreSQL's catalogs say of a table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db import connection


@dataclass(frozen=True)
class Column:
    """A column as it is in the database. ``labels`` are those of its enum type, ``limit`` the length it may have."""

    type: str
    limit: int | None
    has_default: bool
    is_computed: bool
    not_null: bool
    labels: tuple[str, ...] | None


def columns_of(table: str) -> dict[str, Column]:
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
            name: Column(kind, limit, default, computed, not_null, labels and tuple(labels))
            for name, kind, limit, default, computed, not_null, labels in cursor.fetchall()
        }


def checks_that_refuse(table: str, column: str, type_: str, values: Collection[str]) -> list[tuple[str, list[str]]]:
    """Constraints of that one column, each with the values it refuses: found by asking it about each of them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT conname, pg_get_expr(conbin, conrelid) FROM pg_constraint JOIN pg_attribute
                ON attrelid = conrelid AND conkey = ARRAY[attnum]
            WHERE contype = 'c' AND conrelid = %s::regclass AND attname = %s
            """,
            [table, column],
        )
        refusing = []
        for name, expression in cursor.fetchall():
            asked = f"(SELECT value::{type_} AS {column} FROM unnest(%s::text[]) AS value) AS asked"
            refuses = expression.replace("%", "%%")
            cursor.execute(f"SELECT {column}::text FROM {asked} WHERE ({refuses}) IS FALSE", [list(values)])
            refused = [value for (value,) in cursor.fetchall()]
            if refused:
                refusing.append((name, refused))
    return refusing


def checks_of_several(table: str, columns: list[str]) -> list[str]:
    """Constraints of several columns, one of these among them: what they allow only a person can tell."""
    return names(
        "SELECT conname || ' ' || pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint WHERE contype = 'c'"
        " AND conrelid = %s::regclass AND cardinality(conkey) > 1 AND EXISTS (SELECT FROM pg_attribute WHERE"
        " attrelid = conrelid AND attnum = ANY (conkey) AND attname = ANY (%s))",
        *(table, columns),
    )


def validated(table: str, constraint: str) -> bool | None:
    """Whether a constraint holds for all rows, or only for those written since. None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s", [table, constraint]
        )
        row = cursor.fetchone()
    return bool(row[0]) if row else None


def names(sql: str, *parameters: str | list[str]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return [name for (name,) in cursor.fetchall()]


def count(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])
