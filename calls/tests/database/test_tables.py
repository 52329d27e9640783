"""What the tables promise to those who write them without Django, and to those who must not read them."""

import pytest
from django.apps import apps
from django.db import connection, models

from calls.models import CallBatch, CallBatchEvent, IdempotencyKey, WebhookEvent
from calls.tests.support.legacy_database import LEGACY_TABLES

pytestmark = pytest.mark.django_db

OURS = [model for model in apps.get_app_config("calls").get_models() if model._meta.managed]
BUSINESS = [model for model in OURS if model not in (CallBatchEvent, IdempotencyKey, WebhookEvent)]


def rows(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def test_the_eight_tables_have_the_names_that_other_services_know():
    assert {model._meta.db_table for model in BUSINESS} == LEGACY_TABLES


@pytest.mark.parametrize("model", BUSINESS, ids=lambda model: model._meta.db_table)
def test_every_default_stands_in_the_database_too(model):
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


@pytest.mark.parametrize("model", BUSINESS, ids=lambda model: model._meta.db_table)
def test_an_unsaved_instance_has_the_same_defaults(model):
    values = [getattr(model(), field.attname) for field in model._meta.concrete_fields if field.name != "updated_at"]

    assert not any(isinstance(value, models.expressions.DatabaseDefault) for value in values)


def test_ids_made_here_are_in_order_of_time():
    first, second = CallBatch().pk, CallBatch().pk

    assert first.version == 7
    assert first < second


def test_every_function_of_a_trigger_runs_as_its_owner_with_a_search_path_of_its_own():
    functions = rows(
        """
        SELECT proname, prosecdef, proconfig FROM pg_proc
        WHERE prorettype = 'trigger'::regtype AND pronamespace = 'public'::regnamespace
            AND proname !~ '^procrastinate_'
        """
    )

    assert len(functions) == 6
    assert {(definer, *config) for name, definer, config in functions} == {(True, "search_path=public, pg_temp")}


def test_every_table_is_closed_to_the_data_api():
    tables = rows(
        "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )

    assert [name for name, closed in tables if not closed] == []
    assert rows("SELECT polname FROM pg_policy") == []


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.db_table)
def test_every_constraint_and_index_has_a_name_of_its_own(model):
    named = [constraint.name for constraint in model._meta.constraints] + [index.name for index in model._meta.indexes]
    existing = {name for (name,) in rows("SELECT conname FROM pg_constraint UNION SELECT relname FROM pg_class")}

    assert set(named) <= existing
