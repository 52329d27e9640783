"""What the app needs of its tables, compared with what is there. Nothing is written or locked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from django.apps.registry import Apps
from django.db import connection, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from calls.adoption.steps import Step

TYPES: dict[type[models.Field[Any, Any]], set[str]] = {
    models.UUIDField: {"uuid"},
    models.TextField: {"text", "character varying"},
    models.IntegerField: {"integer", "bigint", "smallint"},
    models.BooleanField: {"boolean"},
    models.DateTimeField: {"timestamp with time zone"},
    models.JSONField: {"jsonb"},
}

# What a cancel writes must fit into a column of limited length.
ROOM = 20


@dataclass(frozen=True)
class Column:
    """A column as it is in the database. ``labels`` are those of its enum type, ``limit`` the length it may have."""

    type: str
    limit: int | None
    has_default: bool
    not_null: bool
    labels: tuple[str, ...] | None


@dataclass
class Table:
    """What was found of one table. ``rows`` is the database's own estimate; None is a table that is not there."""

    name: str
    rows: int | None = None
    additions: list[Step] = field(default_factory=list)
    obstacles: list[tuple[str, str]] = field(default_factory=list)
    """What is in the way, and what to do about it."""
    notes: list[str] = field(default_factory=list)
    """What is left alone."""


def tracked(apps: Apps) -> list[type[models.Model]]:
    """The models of the eight tables that may be somebody else's."""
    return [
        model
        for model in apps.get_app_config("calls").get_models()
        if not model._meta.db_table.startswith("call_batch_events")
    ]


def survey(apps: Apps) -> list[Table]:
    """Compare the tables of the app's models in ``apps`` with those in the database."""
    found = [_survey_table(model) for model in tracked(apps)]
    if any(table.rows is not None for table in found):
        for table in found:
            if table.rows is None:
                table.obstacles.append(
                    ("the table is missing, and others are there", "Create it, or rename the others.")
                )
    return found


def report(tables: list[Table]) -> str:
    """What a person reads: table by table what is there, what will be added, what is in the way."""
    lines = []
    for table in tables:
        there = "is not there" if table.rows is None else f"is there, about {table.rows} rows"
        lines.append(f"{table.name} {there}")
        lines += [f"    in the way: {what}\n        {remedy}" for what, remedy in table.obstacles]
        lines += [f"    to be added: {step.what}" for step in table.additions]
        lines += [f"    left alone: {note}" for note in table.notes]
    return "\n".join(lines)


def _survey_table(model: type[models.Model]) -> Table:
    table = Table(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT relkind, greatest(reltuples, 0)::bigint, relrowsecurity, relforcerowsecurity,
                pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner), current_user,
                (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user)
            FROM pg_class WHERE oid = to_regclass(%s)
            """,
            [f"public.{table.name}"],
        )
        row = cursor.fetchone()
    if row is None:
        return table
    kind, table.rows, has_rls, forces_rls, owned, owner, user, bypasses = row
    if kind != "r":
        table.obstacles.append(("it is a view, or partitioned", "The app needs an ordinary table of this name."))
        return table
    if not owned:
        table.obstacles.append(
            (
                f"it belongs to {owner}, and this connection is {user}",
                f"GRANT {owner} TO {user}; or connect as {owner}.",
            )
        )
        return table
    if forces_rls and not bypasses:
        table.obstacles.append(
            ("row level security binds its owner too", f"ALTER TABLE {table.name} NO FORCE ROW LEVEL SECURITY;")
        )
    if not has_rls:
        table.notes.append("row level security is off: Supabase's Data API serves it to whoever has a grant")
    columns = _columns(table.name)
    _survey_columns(table, model, columns)
    if not table.obstacles:
        _survey_statuses(table, model, columns)
        _survey_indexes(table, model)
        _survey_constraints(table, model, columns)
    unknown = sorted(set(columns) - {each.column for each in _fields(model)})
    if unknown:
        table.notes.append(f"columns that the app does not know: {', '.join(unknown)}")
    triggers = _names(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
        " AND tgname NOT LIKE 'pgtrigger_%%' ORDER BY 1",
        table.name,
    )
    if triggers:
        table.notes.append(f"triggers of others: {', '.join(triggers)}")
    return table


def _columns(table: str) -> dict[str, Column]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT attname, format_type(atttypid, NULL), CASE WHEN atttypmod > 4 THEN atttypmod - 4 END,
                atthasdef OR attidentity <> '', attnotnull,
                CASE WHEN typtype = 'e' THEN
                    (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = atttypid)
                END
            FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
            WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
            """,
            [table],
        )
        return {
            name: Column(kind, limit, default, not_null, labels and tuple(labels))
            for name, kind, limit, default, not_null, labels in cursor.fetchall()
        }


def _survey_columns(table: Table, model: type[models.Model], columns: dict[str, Column]) -> None:
    for each in _fields(model):
        column = columns.get(each.column)
        if column is None:
            _survey_missing(table, model, each)
            continue
        kind = _kind(each)
        if column.type not in TYPES[kind] and not (column.labels and kind is models.TextField):
            wanted = " or ".join(sorted(TYPES[kind]))
            table.obstacles.append((f"{each.column} is {column.type}", f"The app needs {wanted}."))
        elif column.limit is not None and column.limit < ROOM and kind is models.TextField:
            table.obstacles.append(
                (
                    f"{each.column} takes {column.limit} characters",
                    f"ALTER TABLE {table.name} ALTER COLUMN {each.column} TYPE text;",
                )
            )
        if each.has_db_default() and not column.has_default:
            table.additions.append(_default(model, each))
        if column.not_null or each.null or (each.has_db_default() and not each.choices):
            continue
        nulls = _count(f"SELECT count(*) FROM {table.name} WHERE {each.column} IS NULL")
        if nulls:
            table.obstacles.append(
                (f"{nulls} rows have no {each.column}", "Give them one: it says whose row it is, or what it is.")
            )
    if not _count(
        f"SELECT count(*) FROM pg_index WHERE indrelid = '{table.name}'::regclass AND indisunique AND indpred IS NULL"
        f" AND indkey::text = (SELECT attnum::text FROM pg_attribute"
        f" WHERE attrelid = '{table.name}'::regclass AND attname = 'id')"
    ):
        table.obstacles.append(("id is not its primary key", f"ALTER TABLE {table.name} ADD PRIMARY KEY (id);"))


def _kind(each: models.Field[Any, Any]) -> type[models.Field[Any, Any]]:
    target = each.target_field if isinstance(each, models.ForeignKey) else each
    return next(kind for kind in TYPES if isinstance(target, kind))


def _fields(model: type[models.Model]) -> list[Any]:
    """The fields that are columns, without which a field has no ``column``."""
    return list(model._meta.concrete_fields)


def _survey_missing(table: Table, model: type[models.Model], each: Any) -> None:
    if not (each.null or each.has_db_default()) or each.name == "batch":
        table.obstacles.append((f"the column {each.column} is missing", "Add it, and fill it for the rows there are."))
        return
    with _editor() as editor:
        definition, parameters = editor.column_sql(model, each)
        sql = editor.sql_create_column % {
            "table": editor.quote_name(table.name),
            "column": editor.quote_name(each.column),
            "definition": definition,
        }
        editor.execute(sql, parameters)
    drop = f"ALTER TABLE IF EXISTS {table.name} DROP COLUMN IF EXISTS {each.column}"
    table.additions.append(Step(table.name, f"column {each.column}", _collected(editor), drop))


def _default(model: type[models.Model], each: Any) -> Step:
    table = model._meta.db_table
    with _editor() as editor:
        default, parameters = editor.db_default_sql(each)
        editor.execute(f"ALTER TABLE {table} ALTER COLUMN {each.column} SET DEFAULT {default}", parameters)
    sql = _collected(editor)
    return Step(
        table,
        f"default of {each.column}: {sql.rsplit('SET DEFAULT ', 1)[1]}",
        sql,
        f"ALTER TABLE IF EXISTS {table} ALTER COLUMN {each.column} DROP DEFAULT",
    )


def _editor() -> BaseDatabaseSchemaEditor:
    """Django's own words for what is to be added, written down instead of executed."""
    return connection.schema_editor(collect_sql=True, atomic=False)


def _collected(editor: BaseDatabaseSchemaEditor) -> str:
    return str(editor.collected_sql[0]).rstrip(";")


def _survey_statuses(table: Table, model: type[models.Model], columns: dict[str, Column]) -> None:
    """Columns with choices: every value of ours can be stored, and every value that is stored is one of ours."""
    for each in _fields(model):
        column = columns.get(each.column)
        if column is None or not each.choices or each.name == "role":
            continue
        known = [value for value, _ in each.flatchoices]
        if column.labels is not None:
            for value in [value for value in known if value not in column.labels]:
                table.obstacles.append(
                    (
                        f"{each.column} is the enum {column.type} without '{value}'",
                        f"ALTER TYPE {column.type} ADD VALUE '{value}';",
                    )
                )
            continue
        for name, refused in _checks_that_refuse(table.name, each.column, known):
            table.obstacles.append(
                (
                    f"the constraint {name} does not allow {each.column} to be {_quoted(refused)}",
                    f"ALTER TABLE {table.name} DROP CONSTRAINT {name};",
                )
            )
        if any(_validated(table.name, constraint.name) for constraint in model._meta.constraints):
            continue
        strangers = _names(f"SELECT DISTINCT {each.column}::text FROM {table.name} WHERE {each.column} IS NOT NULL")
        strangers = [value for value in strangers if value not in known]
        if strangers:
            table.obstacles.append(
                (f"{each.column} is {_quoted(strangers)} in some rows", f"Use one of {_quoted(known)}.")
            )


def _checks_that_refuse(table: str, column: str, values: Collection[str]) -> list[tuple[str, list[str]]]:
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
            asked = f"SELECT {column} FROM unnest(%s::text[]) AS asked ({column})"
            cursor.execute(f"{asked} WHERE ({expression.replace('%', '%%')}) IS FALSE", [list(values)])
            refused = [value for (value,) in cursor.fetchall()]
            if refused:
                refusing.append((name, refused))
    return refusing


def _survey_indexes(table: Table, model: type[models.Model]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT indisunique, (
                SELECT array_agg(pg_get_indexdef(indexrelid, key, true) ORDER BY key)
                FROM generate_series(1, indnkeyatts) AS key
            )
            FROM pg_index WHERE indrelid = %s::regclass AND indisvalid AND indpred IS NULL
            """,
            [table.name],
        )
        there = cursor.fetchall()
    editor = _editor()
    for index in model._meta.indexes:
        by_name = {each.name: each.column for each in _fields(model)}
        columns = [by_name[name] for name, _ in index.fields_orders]
        if not any(keys[: len(columns)] == columns for _, keys in there):
            create = str(index.create_sql(model, editor, concurrently=True))
            table.additions.append(_index(table, index.name, columns, create))
    for each in _fields(model):
        if not each.unique or each.primary_key or (True, [each.column]) in there:
            continue
        doubles = _count(
            f"SELECT count(*) FROM (SELECT 1 FROM {table.name} GROUP BY {each.column} HAVING count(*) > 1"
            f" AND {each.column} IS NOT NULL) AS doubles"
        )
        if doubles:
            table.obstacles.append((f"{doubles} values of {each.column} stand in several rows", "Make them unique."))
            continue
        name = f"{table.name}_{each.column}_unique"
        create = f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table.name} ({each.column})"
        table.additions.append(_index(table, name, [each.column], create))


def _index(table: Table, name: str, columns: list[str], create: str) -> Step:
    return Step(
        table.name,
        f"index {name} ({', '.join(columns)}), while others write",
        create,
        f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
        concurrently=True,
    )


def _survey_constraints(table: Table, model: type[models.Model], columns: dict[str, Column]) -> None:
    for constraint in model._meta.constraints:
        if not isinstance(constraint, models.CheckConstraint):
            continue
        condition: Any = constraint.condition
        ((lookup, _),) = condition.children
        column = columns.get(lookup.split("__")[0])
        if column and column.labels:
            continue
        validated = _validated(table.name, constraint.name)
        drop = f"ALTER TABLE IF EXISTS {table.name} DROP CONSTRAINT IF EXISTS {constraint.name}"
        if validated is None:
            add = str(constraint.create_sql(model, _editor()))
            table.additions.append(
                Step(table.name, f"constraint {constraint.name}, for new rows", f"{add} NOT VALID", drop)
            )
        if not validated:
            validate = f"ALTER TABLE {table.name} VALIDATE CONSTRAINT {constraint.name}"
            table.additions.append(Step(table.name, f"constraint {constraint.name}, for all rows", validate, drop))


def _validated(table: str, constraint: str) -> bool | None:
    """Whether a constraint holds for all rows, or only for those written since. None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT convalidated FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s", [table, constraint]
        )
        row = cursor.fetchone()
    return bool(row[0]) if row else None


def _quoted(values: Collection[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _names(sql: str, *parameters: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return [name for (name,) in cursor.fetchall()]


def _count(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])
