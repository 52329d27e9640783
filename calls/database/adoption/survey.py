"""Compare the tables in the database with the app's models. Nothing is written or locked."""

from __future__ import annotations

from django.apps.registry import Apps
from django.core.management.base import CommandError
from django.db import connection, models
from django.db.migrations.recorder import MigrationRecorder

from calls.database.adoption.catalog import Column, columns_of, fetch_column, fetch_count, multi_column_checks
from calls.database.adoption.columns import WRITTEN_BY_CANCEL, survey_columns, survey_values
from calls.database.adoption.constraints import survey_constraints
from calls.database.adoption.costs import costs_of_cancel
from calls.database.adoption.definitions import concrete_fields, create_table_sql
from calls.database.adoption.indexes import survey_indexes
from calls.database.adoption.report import DATABASE, Report, format_reports
from calls.database.adoption.steps import Step
from calls.database.adoption.storage import missing_storage_parameters
from calls.database.adoption.tables import FILLED_IN, NOT_NEEDED_TO_CANCEL, READ_ONLY

# The tables that are never adopted, with the migration that creates them.
OWN_TABLES = {
    "agency_events": ("calls", "0016_history_of_agencies"),
    "call_adoption": ("calls", "0002_complete_adopted_tables"),
    "call_batch_events": ("calls", "0003_guards_history_and_own_tables"),
    "call_idempotency_keys": ("calls", "0003_guards_history_and_own_tables"),
    "call_webhook_events": ("calls", "0003_guards_history_and_own_tables"),
    "auth_user": ("auth", "0001_initial"),
    "django_admin_log": ("admin", "0001_initial"),
    "django_content_type": ("contenttypes", "0001_initial"),
    "django_session": ("sessions", "0001_initial"),
    "pghistory_context": ("pghistory", "0001_initial"),
    "procrastinate_jobs": ("procrastinate", "0001_initial"),
}


# The description of the step that adds a whole table.
WHOLE_TABLE = "table without rows"


def survey(apps: Apps) -> list[Report]:
    """Return a report on the database and one on each table that may be adopted, as the models in ``apps`` need it."""
    models_ = _adoptable_models(apps)
    reports = [_survey_table(model) for model in models_]
    if any(report.rows is not None for report in reports):
        for model, report in zip(models_, reports, strict=True):
            if report.rows is None:
                _survey_missing_table(report, model)
    return [_survey_database(), *reports]


def missing_steps(apps: Apps) -> list[Step]:
    """
    Return the steps that add everything that is missing.

    :raises CommandError: there are obstacles. The message lists them with their remedies.
    """
    reports = survey(apps)
    if any(report.obstacles for report in reports):
        raise CommandError(
            f"The tables cannot be adopted as they are. None of them was changed.\n\n{format_reports(reports)}"
        )
    return [step for report in reports for step in report.missing_steps]


def _adoptable_models(apps: Apps) -> list[type[models.Model]]:
    """Return the models of the eight tables that other services may have created."""
    return [model for model in apps.get_app_config("calls").get_models() if model._meta.db_table not in OWN_TABLES]


def _survey_database() -> Report:
    """Report whether the app can create its own tables."""
    report = Report(DATABASE)
    applied = MigrationRecorder(connection).applied_migrations()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema(), has_schema_privilege('public', 'CREATE'), quote_ident(current_user)")
        schema, may_create, user = cursor.fetchone()
    if schema != "public":
        report.add_problem(
            f"the current schema of {user} is {schema}",
            "With the new search_path, connect again.",
            sql=f"ALTER ROLE {user} SET search_path = public;",
        )
    if not may_create:
        report.add_problem(f"{user} may not create tables", sql=f"GRANT CREATE ON SCHEMA public TO {user};")
    for table, migration in OWN_TABLES.items():
        if migration not in applied and fetch_count(f"SELECT count(to_regclass('public.{table}'))"):
            # An interrupted adoption leaves this table, although the migration is not recorded as applied.
            if table == "call_adoption" and columns_of(table).keys() == {"id", "what", "undo", "probe", "stood_as"}:
                continue
            report.add_problem(
                f"the table {table} exists, and the app did not create it",
                sql=f"ALTER TABLE {table} RENAME TO {table}_legacy;",
            )
    return report


def _survey_table(model: type[models.Model]) -> Report:
    report = Report(model._meta.db_table)
    if not _survey_ownership(report):
        return report
    columns = columns_of(report.name)
    unusable = survey_columns(report, model, columns)
    if report.name not in READ_ONLY:
        survey_values(report, model, {name: column for name, column in columns.items() if name not in unusable})
        survey_indexes(report, model, columns, unusable)
        survey_constraints(report, model, columns)
        report.missing_steps += missing_storage_parameters(report.name)
    if _was_added_empty(report.name):
        report.add_problem(
            f"it was added by the adoption and has no rows, so {NOT_NEEDED_TO_CANCEL[report.name]}",
            "Add rows if batches are to be created and dialled here.",
        )
    _note_unknown_objects(report, model, columns)
    return report


def _survey_missing_table(report: Report, model: type[models.Model]) -> None:
    """Report a missing table. If a cancel does not need it, it will be added without rows."""
    table = report.name
    if table not in NOT_NEEDED_TO_CANCEL:
        report.add_problem(
            "the table is missing, but other tables of the app exist", "Create it, or rename the other tables."
        )
        return
    report.add_problem("the table is missing", f"It is added without rows: {NOT_NEEDED_TO_CANCEL[table]}.")
    report.missing_steps.append(
        Step(
            table,
            WHOLE_TABLE,
            f"{create_table_sql(model)}; ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"LOCK TABLE {table}; DO $$ BEGIN IF EXISTS (SELECT FROM {table}) THEN RAISE 'it has rows'; END IF;"
            f" DROP TABLE {table}; END $$",
            f"SELECT to_regclass('public.{table}')::text",
        )
    )


def _was_added_empty(table: str) -> bool:
    """Return whether the table is one that only other services fill, was added by the adoption, and is still empty."""
    if table not in READ_ONLY & NOT_NEEDED_TO_CANCEL.keys() or not fetch_count(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('call_adoption') AND attname = 'what'"
    ):
        return False
    added = f"SELECT FROM call_adoption WHERE what = '{table}: {WHOLE_TABLE}'"
    return bool(fetch_count(f"SELECT count(*) WHERE EXISTS ({added}) AND NOT EXISTS (SELECT FROM {table})"))


def _survey_ownership(report: Report) -> bool:
    """Return whether the table exists and its structure can be examined. Set the number of rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT relkind, reltuples::bigint, relrowsecurity, relforcerowsecurity,
                quote_ident(pg_get_userbyid(relowner)), quote_ident(current_user),
                (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user),
                EXISTS (SELECT FROM pg_inherits WHERE oid IN (inhparent, inhrelid))
            FROM pg_class WHERE oid = to_regclass(%s)
            """,
            [f"public.{report.name}"],
        )
        row = cursor.fetchone()
    if row is None:
        return False
    kind, report.rows, has_rls, forces_rls, owner, user, bypasses_rls, inherits = row
    if kind != "r" or inherits:
        report.add_problem(
            "it is a view, a partitioned table, or a table with inheritance",
            "The app needs an ordinary table of this name.",
        )
        return False
    if owner != user:
        # A member of the owner's role could change the table, but the guards run as its owner, who has no rights on
        # the tables that the app creates.
        report.add_obstacle(
            f"its owner is {owner}, but this connection is {user}",
            f"Connect as {owner}, or let each new connection of {user} act as {owner}, with the statements below. If"
            " the tables have several owners, give them the same one first (ALTER TABLE … OWNER TO …).",
            sql=f"GRANT {owner} TO {user};\nALTER ROLE {user} SET role = {owner};",
        )
        return False
    if forces_rls and not bypasses_rls:
        report.add_problem(
            "row level security applies to its owner too", sql=f"ALTER TABLE {report.name} NO FORCE ROW LEVEL SECURITY;"
        )
    if not has_rls:
        report.notes.append("row level security is off, so Supabase's Data API serves it to every role with a grant")
    return True


def _note_unknown_objects(report: Report, model: type[models.Model], columns: dict[str, Column]) -> None:
    """Note the columns, constraints and triggers of other services that stay as they are."""
    filled_in = FILLED_IN.get(report.name, [])
    unknown = sorted(set(columns) - {field.column for field in concrete_fields(model)})
    if unused := [name for name in unknown if name not in filled_in]:
        report.notes.append(f"columns that the app does not use: {', '.join(unused)}")
    for name in unknown:
        is_filled_in = report.name in READ_ONLY or name in filled_in
        if columns[name].not_null and not columns[name].has_default and not is_filled_in:
            report.add_warning(
                f"{name} does not allow NULL, and the app does not fill it in: unless a trigger does, no batch can be"
                " created or dialled",
                sql=f"ALTER TABLE {report.name} ALTER COLUMN {name} DROP NOT NULL;",
            )
    report.notes += [
        f"a cancel must satisfy the constraint {check}" for check in multi_column_checks(report.name, WRITTEN_BY_CANCEL)
    ]
    triggers = fetch_column(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal"
        " AND tgname NOT LIKE 'pgtrigger_%%' ORDER BY 1",
        report.name,
    )
    if triggers:
        report.notes.append(f"triggers of other services: {', '.join(triggers)}")
    report.notes += map(str, costs_of_cancel(report.name))
