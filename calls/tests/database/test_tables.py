"""Names, defaults and access rights of the tables, which other services write without Django."""

import pytest
from django.apps import apps
from django.db import connection, models

from calls.models import AgencyEvent, CallBatch, CallBatchEvent, IdempotencyKey, WebhookEvent
from calls.tests.support.legacy_database import LEGACY_TABLES

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

MANAGED = [model for model in apps.get_app_config("calls").get_models() if model._meta.managed]
ADOPTABLE = [model for model in MANAGED if model not in (AgencyEvent, CallBatchEvent, IdempotencyKey, WebhookEvent)]


def rows(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def test_the_eight_tables_have_the_names_that_other_services_know():
    assert {model._meta.db_table for model in ADOPTABLE} == LEGACY_TABLES


@pytest.mark.parametrize("model", ADOPTABLE, ids=lambda model: model._meta.db_table)
def test_every_default_is_also_a_database_default(model):
    defaults = {
        column
        for (column,) in rows(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND column_default IS NOT NULL",
            model._meta.db_table,
        )
    }

    assert {
        field.column
        for field in model._meta.concrete_fields
        if field.has_default() or getattr(field, "auto_now", False)
    } == defaults


@pytest.mark.parametrize("model", ADOPTABLE, ids=lambda model: model._meta.db_table)
def test_an_unsaved_instance_has_its_defaults(model):
    values = [getattr(model(), field.attname) for field in model._meta.concrete_fields if field.name != "updated_at"]

    assert not any(isinstance(value, models.expressions.DatabaseDefault) for value in values)


def test_new_ids_are_ordered_by_time():
    first, second = CallBatch().pk, CallBatch().pk

    assert first.version == 7
    assert first < second


def test_every_trigger_function_runs_as_its_owner_with_a_fixed_search_path():
    functions = rows(
        """
        SELECT proname, prosecdef, proconfig FROM pg_proc
        WHERE prorettype = 'trigger'::regtype AND pronamespace = 'public'::regnamespace
            AND proname !~ '^procrastinate_'
        """
    )

    assert len(functions) == 7
    assert {(definer, *config) for name, definer, config in functions} == {(True, "search_path=public, pg_temp")}


def test_every_table_is_closed_to_the_data_api():
    tables = rows(
        "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )

    assert [name for name, closed in tables if not closed] == []
    assert rows("SELECT polname FROM pg_policy") == []


@pytest.mark.parametrize("model", MANAGED, ids=lambda model: model._meta.db_table)
def test_every_constraint_and_index_exists_under_its_name(model):
    named = [constraint.name for constraint in model._meta.constraints] + [index.name for index in model._meta.indexes]
    existing = {name for (name,) in rows("SELECT conname FROM pg_constraint UNION SELECT relname FROM pg_class")}

    assert set(named) <= existing
