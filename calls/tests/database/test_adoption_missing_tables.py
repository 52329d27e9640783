"""An adoption of a database without the tables that a cancel does not need."""

import pytest

from calls.tests.support.adoption import first_batch
from calls.tests.support.legacy_database import SCHEMAS, legacy_database

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

MISSING = "DROP TABLE calls, agent_mappings, agency_phone_numbers CASCADE"


@pytest.fixture(scope="module", params=SCHEMAS)
def without_tables(request, django_db_setup, django_db_blocker):
    """An adopted database, of each schema, that had no calls, agent mappings and phone numbers."""
    with legacy_database(MISSING, schema=SCHEMAS[request.param]) as database:
        database.checked = database.manage("check_database")
        database.adopt()
        yield database


def test_tables_that_a_cancel_does_not_need_are_added_empty(without_tables):
    code, output = without_tables.checked

    assert code == 0
    assert "warning: the table is missing" in output
    assert "will be added: table without rows" in output
    for table in ("calls", "agent_mappings", "agency_phone_numbers"):
        assert without_tables.query(f"SELECT count(*) FROM {table}") == [(0,)]
    assert without_tables.query(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'calls'::regclass AND contype = 'f'"
    ) == [(0,)]
    assert without_tables.query("SELECT relrowsecurity FROM pg_class WHERE oid = 'calls'::regclass") == [(True,)]


def test_without_those_tables_batches_are_paused_and_cancelled(without_tables):
    batch = first_batch(without_tables)

    assert without_tables.manage("pause_batch", batch)[0] == 0
    assert without_tables.manage("cancel_batch", batch)[0] == 0


def test_a_check_warns_of_what_does_not_work_without_those_tables(without_tables):
    code, output = without_tables.manage("check", "--database", "default")

    assert code == 0
    assert (
        "(calls.W028) agent_mappings: it was added by the adoption and has no rows, so no batch can be created"
        in output
    )
    assert "(calls.W028) agency_phone_numbers: " in output
    assert "(calls.W028) calls: " not in output


def test_the_dialler_places_no_call_without_agents(without_tables):
    code, output = without_tables.manage("process_batches")

    assert code == 0, output
    assert without_tables.query("SELECT count(*) FROM calls") == [(0,)]
