"""What the app needs of its tables, compared with what is there. Nothing is written or locked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import connection, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.recorder import MigrationRecorder

from calls.database.adoption.catalog import (
    Column,
    checks_of_several,
    checks_that_refuse,
    columns_of,
    count,
    names,
    validated,
)
from calls.database.adoption.steps import Step
from calls.database.adoption.storage import storage_to_add
from calls.database.adoption.table import Table, report
from calls.statuses import CallStatus, Outcome

TYPES: dict[type[models.Field[Any, Any]], set[str]] = {
    models.UUIDField: {"uuid"},
    models.TextField: {"text", "character varying"},
    models.IntegerField: {"integer", "bigint", "smallint"},
    models.BooleanField: {"boolean"},
    models.DateTimeField: {"timestamp with time zone"},
    models.JSONField: {"jsonb"},
}

# What a cancel writes, and how long the longest of its words may get.
WRITTEN = ["status", "outcome_notes", "error_message", "queued", "skipped", "completed_at"]
ROOM = 20
# What the app writes beside what others may have there.
WORDS = {("calls", "status"): CallStatus.values, ("campaign_contacts", "outcome"): Outcome.values}

# Tables that the app makes, each with the migration that does.
OWN_TABLES = {
    "call_adoption": ("calls", "0002_what_is_lacking"),
    "call_batch_events": ("calls", "0003_guards_and_history"),
    "call_idempotency_keys": ("calls", "0006_idempotency_keys"),
    "call_webhook_events": ("calls", "0007_webhook_events"),
    "auth_user": ("auth", "0001_initial"),
    "django_admin_log": ("admin", "0001_initial"),
    "django_content_type": ("contenttypes", "0001_initial"),
    "django_session": ("sessions", "0001_initial"),
    "pghistory_context": ("pghistory", "0001_initial"),
    "procrastinate_jobs": ("procrastinate", "0001_initial"),
}


def tracked(apps: Apps) -> list[type[models.Model]]:
    """The models of the eight tables that may be somebody else's."""
    return [model for model in apps.get_app_config("calls").get_models() if model._meta.db_table not in OWN_TABLES]


def survey(apps: Apps) -> list[Table]:
    """Compare the tables of the app's models in ``apps`` with those in the database."""
    found = [_survey_table(model) for model in tracked(apps)]
    if any(table.rows is not None for table in found):
        for table in found:
            if table.rows is None:
                table.obstacles.append(
                    ("the table is missing, and others are there", "Create it, or rename the others.")
                )
    return [_survey_database(), *found]


def _survey_database() -> Table:
    """Whether there is room for what is the app's own."""
    database = Table("database", rows=0)
    applied = MigrationRecorder(connection).applied_migrations()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema(), has_schema_privilege('public', 'CREATE'), current_user")
        schema, may_create, user = cursor.fetchone()
    if schema != "public":
        database.obstacles.append(
            (f"{user} works in the schema {schema}", f"ALTER ROLE {user} SET search_path = public; and connect anew.")
        )
    if not may_create:
        database.obstacles.append((f"{user} may create nothing", f"GRANT CREATE ON SCHEMA public TO {user};"))
    for table, migration in OWN_TABLES.items():
        if migration not in applied and count(f"SELECT count(to_regclass('public.{table}'))"):
            if table == "call_adoption" and columns_of(table).keys() == {"id", "what", "undo", "probe", "stood_as"}:
                continue
            database.obstacles.append(
                (f"there is a table {table}, which is not the app's", f"ALTER TABLE {table} RENAME TO {table}_theirs;")
            )
    return database


def lacking(apps: Apps) -> list[Step]:
    """
    All that is to be added.

    :raises CommandError: something is in the way, each with what to do about it.
    """
    tables = survey(apps)
    if any(table.obstacles for table in tables):
        raise CommandError(f"These tables cannot be adopted as they are. None of them was changed.\n\n{report(tables)}")
    return [step for table in tables for step in table.additions]


def _survey_table(model: type[models.Model]) -> Table:
    table = Table(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT relkind, greatest(reltuples, 0)::bigint, relrowsecurity, relforcerowsecurity,
                pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner), current_user,
                (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user),
                EXISTS (SELECT FROM pg_inherits WHERE oid IN (inhparent, inhrelid))
            FROM pg_class WHERE oid = to_regclass(%s)
            """,
            [f"public.{table.name}"],
        )
        row = cursor.fetchone()
    if row is None:
        return table
    kind, table.rows, has_rls, forces_rls, owned, owner, user, bypasses, inherits = row
    if kind != "r" or inherits:
        table.obstacles.append(
            ("it is a view, partitioned, or inherited from", "The app needs an ordinary table of this name.")
        )
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
    columns = columns_of(table.name)
    _survey_columns(table, model, columns)
    if not table.obstacles:
        _survey_statuses(table, model, columns)
        _survey_indexes(table, model)
        _survey_constraints(table, model, columns)
        table.additions += storage_to_add(table.name)
    if unknown := sorted(set(columns) - {each.column for each in _fields(model)}):
        table.notes.append(f"columns that the app does not know: {', '.join(unknown)}")
    if needed := [name for name in unknown if columns[name].not_null and not columns[name].has_default]:
        table.notes.append(f"of these the app cannot fill, and so adds no rows here: {', '.join(needed)}")
    table.notes += [
        f"a constraint that a cancel has to satisfy: {check}" for check in checks_of_several(table.name, WRITTEN)
    ]
    triggers = names(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
        " AND tgname NOT LIKE 'pgtrigger_%%' ORDER BY 1",
        table.name,
    )
    if triggers:
        table.notes.append(f"triggers of others: {', '.join(triggers)}")
    return table


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
        elif column.is_computed:
            table.obstacles.append((f"{each.column} is computed by the database", "The app has to write it."))
        elif (each.column in WRITTEN or (table.name, each.column) in WORDS) and (column.limit or ROOM) < ROOM:
            table.obstacles.append(
                (
                    f"{each.column} takes {column.limit} characters",
                    f"ALTER TABLE {table.name} ALTER COLUMN {each.column} TYPE text;",
                )
            )
        if column.labels is not None:
            _survey_enum(table, each, column)
        if each.has_db_default() and not column.has_default:
            table.additions.append(_default(model, each))
        if column.not_null or each.null or not (each.is_relation or each.choices):
            continue
        nulls = count(f"SELECT count(*) FROM {table.name} WHERE {each.column} IS NULL")
        if nulls:
            table.obstacles.append(
                (f"{nulls} rows have no {each.column}", "Give them one: it says whose row it is, or what it is.")
            )
    if not count(
        f"SELECT count(*) FROM pg_index WHERE indrelid = '{table.name}'::regclass AND indisunique AND indpred IS NULL"
        f" AND indkey::text = (SELECT attnum::text FROM pg_attribute"
        f" WHERE attrelid = '{table.name}'::regclass AND attname = 'id')"
    ):
        table.obstacles.append(("id is not its primary key", f"ALTER TABLE {table.name} ADD PRIMARY KEY (id);"))


def _survey_enum(table: Table, each: Any, column: Column) -> None:
    """Every value that the app stores there is a label of it."""
    for value in _words(table, each) or ([each.default] if each.has_default() else []):
        if value not in (column.labels or ()):
            table.obstacles.append(
                (
                    f"{each.column} is the enum {column.type} without '{value}'",
                    f"ALTER TYPE {column.type} ADD VALUE '{value}';",
                )
            )


def _words(table: Table, each: Any) -> list[str]:
    """All that the app stores there, where it is one of a few words."""
    return [value for value, _ in each.flatchoices] or WORDS.get((table.name, each.column), [])


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
    drop = f"ALTER TABLE {table.name} DROP COLUMN {each.column}"
    probe = (
        f"SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        f" WHERE attrelid = to_regclass('{table.name}') AND attname = '{each.column}'"
    )
    table.additions.append(Step(table.name, f"column {each.column}", _collected(editor), drop, probe))


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
        f"ALTER TABLE {table} ALTER COLUMN {each.column} DROP DEFAULT",
        f"SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum"
        f" WHERE adrelid = to_regclass('{table}') AND attname = '{each.column}'",
    )


def _editor() -> BaseDatabaseSchemaEditor:
    """Django's own words for what is to be added, written down instead of executed."""
    return connection.schema_editor(collect_sql=True, atomic=False)


def _collected(editor: BaseDatabaseSchemaEditor) -> str:
    return str(editor.collected_sql[0]).rstrip(";")


def _survey_statuses(table: Table, model: type[models.Model], columns: dict[str, Column]) -> None:
    """Every word of ours can be stored; and where there are choices, every word that is stored is one of them."""
    for each in _fields(model):
        column, known = columns.get(each.column), _words(table, each)
        if column is None or not known or each.name == "role":
            continue
        for name, refused in checks_that_refuse(table.name, each.column, column.type, known):
            table.obstacles.append(
                (
                    f"the constraint {name} does not allow {each.column} to be {_quoted(refused)}",
                    f"ALTER TABLE {table.name} DROP CONSTRAINT {name};",
                )
            )
        if not each.choices or column.labels or any(validated(table.name, one.name) for one in model._meta.constraints):
            continue
        stored = names(f"SELECT DISTINCT {each.column}::text FROM {table.name} WHERE {each.column} IS NOT NULL")
        if strangers := [value for value in stored if value not in known]:
            table.obstacles.append(
                (f"{each.column} is {_quoted(strangers)} in some rows", f"Use one of {_quoted(known)}.")
            )


def _survey_indexes(table: Table, model: type[models.Model]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT indisunique, (
                SELECT array_agg(pg_get_indexdef(indexrelid, key, true) ORDER BY key)
                FROM generate_series(1, indnkeyatts) AS key
            ), indpred IS NOT NULL, relname
            FROM pg_index JOIN pg_class ON oid = indexrelid
            WHERE indrelid = %s::regclass AND indisvalid
                AND relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
            """,
            [table.name],
        )
        found = cursor.fetchall()
    there = [(unique, keys) for unique, keys, partial, _ in found if not partial]
    by_name = {each.name: each.column for each in _fields(model)}
    editor = _editor()
    for index in model._meta.indexes:
        columns = [by_name[name] for name, _ in index.fields_orders] or [index.name]
        if index.condition or index.expressions:
            # Of those only ours are known to serve.
            serves = any(name == index.name for *_, name in found)
        else:
            serves = any(keys[: len(columns)] == columns for _, keys in there)
        if not serves:
            create = str(index.create_sql(model, editor, concurrently=True))
            _add_index(table, index.name, columns, create)
    for each in _fields(model):
        if not each.unique or each.primary_key or (True, [each.column]) in there:
            continue
        doubles = count(
            f"SELECT count(*) FROM (SELECT 1 FROM {table.name} GROUP BY {each.column} HAVING count(*) > 1"
            f" AND {each.column} IS NOT NULL) AS doubles"
        )
        if doubles:
            table.obstacles.append((f"{doubles} values of {each.column} stand in several rows", "Make them unique."))
            continue
        name = f"{table.name}_{each.column}_unique"
        create = f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table.name} ({each.column})"
        _add_index(table, name, [each.column], create)


def _add_index(table: Table, name: str, columns: list[str], create: str) -> None:
    taken = count(
        f"SELECT count(*) FROM pg_class LEFT JOIN pg_index ON indexrelid = oid WHERE oid = to_regclass('public.{name}')"
        f" AND (indrelid IS DISTINCT FROM '{table.name}'::regclass OR indisvalid)"
    )
    if taken:
        table.obstacles.append(
            (
                f"something else has the name {name}, which an index needs",
                f"ALTER INDEX {name} RENAME TO {name}_theirs;",
            )
        )
        return
    table.additions.append(
        Step(
            table.name,
            f"index {name} ({', '.join(columns)}), while others write",
            create,
            f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
            f"SELECT pg_get_indexdef(to_regclass('{name}'))",
            concurrently=True,
        )
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
        holds = validated(table.name, constraint.name)
        drop = f"ALTER TABLE {table.name} DROP CONSTRAINT IF EXISTS {constraint.name}"
        probe = (
            f"SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint"
            f" WHERE conrelid = to_regclass('{table.name}') AND conname = '{constraint.name}'"
        )
        if holds is None:
            add = str(constraint.create_sql(model, _editor()))
            table.additions.append(
                Step(table.name, f"constraint {constraint.name}, for new rows", f"{add} NOT VALID", drop, probe)
            )
        if not holds:
            validate = f"ALTER TABLE {table.name} VALIDATE CONSTRAINT {constraint.name}"
            table.additions.append(
                Step(table.name, f"constraint {constraint.name}, for all rows", validate, drop, probe)
            )


def _quoted(values: Collection[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)
