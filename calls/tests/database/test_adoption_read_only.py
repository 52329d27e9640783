"""Tables that the app only reads: an adoption adds nullable columns to them and nothing else."""

import pytest

from calls.tests.support.adoption import COLUMNS, CONSTRAINTS, INDEXES

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

READ_ONLY = {"agencies", "users", "campaigns", "agent_mappings", "agency_phone_numbers"}


def definitions(database, sql):
    return [row for row in database.query(sql) if row[0] in READ_ONLY]


def test_columns_are_added_without_default_and_constraint_and_nothing_else(foreign):
    before = {sql: definitions(foreign, sql) for sql in (COLUMNS, CONSTRAINTS, INDEXES)}

    foreign.adopt()

    added = set(definitions(foreign, COLUMNS)) - set(before[COLUMNS])
    assert ("agencies", "max_concurrent_calls", "integer", "int4", "YES", None) in added
    assert {row[4:] for row in added} == {("YES", None)}
    assert set(before[COLUMNS]) <= set(definitions(foreign, COLUMNS))
    assert definitions(foreign, CONSTRAINTS) == before[CONSTRAINTS]
    assert definitions(foreign, INDEXES) == before[INDEXES]


def test_the_checks_and_the_repair_report_nothing_else(foreign):
    foreign.adopt()
    before = definitions(foreign, COLUMNS)

    assert foreign.manage("check", "--database", "default", "--fail-level", "ERROR")[0] == 0
    assert "calls.W028" not in foreign.manage("check", "--database", "default")[1]
    assert foreign.manage("repair_database")[0] == 0

    assert definitions(foreign, COLUMNS) == before
    assert foreign.query("SELECT to_regclass('agencies_slug_unique')") == [(None,)]


def test_an_agency_that_is_inserted_later_gets_its_secret_from_the_trigger(supabase):
    supabase.adopt()

    supabase.query("INSERT INTO agencies (name) VALUES ('New')")

    assert supabase.query("SELECT length(webhook_secret) FROM agencies WHERE name = 'New'") == [(64,)]


@pytest.mark.parametrize(
    "change",
    [
        """
        ALTER TABLE users DROP email;
        ALTER TABLE agencies DROP slug, DROP name, DROP webhook_secret, DROP settings;
        ALTER TABLE campaigns DROP name, DROP created_at;
        ALTER TABLE users ALTER role DROP NOT NULL;
        UPDATE users SET role = NULL
        """,
        """
        CREATE TYPE level AS ENUM ('reader');
        ALTER TABLE users DROP role; ALTER TABLE users ADD role level;
        UPDATE agencies SET slug = 'the-same'; ALTER TABLE agencies ALTER slug TYPE char(80)
        """,
    ],
    ids=["missing", "different"],
)
def test_what_is_missing_or_different_in_read_only_tables_does_not_prevent_an_adoption(supabase, change):
    supabase.query("DROP TRIGGER agencies_secret ON agencies; DROP TRIGGER campaigns_timestamps ON campaigns")
    supabase.query(change)

    supabase.adopt()

    code, output = supabase.manage("check", "--database", "default", "--fail-level", "ERROR")
    assert code == 0, output
    ((batch,),) = supabase.query("SELECT id::text FROM call_batches ORDER BY id LIMIT 1")
    assert supabase.manage("cancel_batch", batch)[0] == 0
