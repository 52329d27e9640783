"""Missing columns and statuses: what an adoption adds and leaves to the operator, and the script that is printed."""

import re

import pytest

from calls.tests.support.adoption import first_batch
from calls.tests.support.legacy_database import SCHEMAS, SUPABASE_SCHEMA, legacy_database

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

COLUMN = "SELECT is_nullable, column_default FROM information_schema.columns WHERE table_name = %s AND column_name = %s"


def run_script(database):
    """Run the script that ``check_database --sql`` prints, one statement after the other, as psql does."""
    script = database.manage("check_database", "--sql")[1]
    statements = re.sub("^--.*$", "", script, flags=re.MULTILINE).split(";\n")
    for statement in filter(None, map(str.strip, statements)):
        database.query(statement)
    return script


def test_calls_get_the_columns_that_link_them_to_contacts(supabase):
    supabase.adopt()

    assert supabase.query(COLUMN, "calls", "batch_id") == [("YES", None)]
    assert supabase.query(COLUMN, "calls", "contact_id") == [("YES", None)]


def test_missing_columns_that_may_be_null_are_added(foreign):
    foreign.query(
        """
        ALTER TABLE agencies DROP COLUMN IF EXISTS webhook_signing_secret;
        ALTER TABLE campaign_contacts DROP COLUMN IF EXISTS do_not_call, DROP COLUMN IF EXISTS outcome_notes;
        ALTER TABLE call_batches DROP agent_mapping_id, DROP from_number, DROP error_message
        """
    )

    foreign.adopt()

    assert foreign.query(COLUMN, "agencies", "webhook_signing_secret") == [("YES", None)]
    assert foreign.query(COLUMN, "campaign_contacts", "do_not_call") == [("NO", "false")]
    assert foreign.query(COLUMN, "call_batches", "agent_mapping_id") == [("YES", None)]
    assert foreign.manage("cancel_batch", first_batch(foreign))[0] == 0


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_agency_that_can_be_derived_is_filled_in_by_the_script(schema):
    change = """
        DROP POLICY IF EXISTS own_agency ON call_batches; DROP POLICY IF EXISTS own_agency ON campaign_contacts;
        DROP VIEW IF EXISTS call_batch_overview;
        ALTER TABLE call_batches RENAME agency_id TO old_agency;
        ALTER TABLE call_batches ALTER old_agency DROP NOT NULL;
        ALTER TABLE campaign_contacts RENAME agency_id TO old_agency;
        ALTER TABLE campaign_contacts ALTER old_agency DROP NOT NULL
    """
    with legacy_database(change, schema=SCHEMAS[schema]) as database:
        code, output = database.manage("migrate", "--fake-initial")
        assert code == 1
        assert "ALTER TABLE campaign_contacts ADD COLUMN agency_id uuid;" in output

        run_script(database)
        database.adopt()

        for table in ("call_batches", "campaign_contacts"):
            assert database.query(f"SELECT count(*) FROM {table} WHERE agency_id <> old_agency") == [(0,)]
            assert database.query(COLUMN, table, "agency_id") == [("YES", None)]
        # Services that do not know the column continue to add rows.
        database.query(
            "INSERT INTO campaign_contacts (campaign_id, batch_id, phone_number)"
            " SELECT campaign_id, id, '+12125550177' FROM call_batches WHERE status = 'processing'"
        )
        assert database.query(
            "SELECT DISTINCT campaign_contacts.agency_id = call_batches.agency_id"
            " FROM campaign_contacts JOIN call_batches ON call_batches.id = batch_id"
            " WHERE phone_number = '+12125550177'"
        ) == [(True,)]


def test_an_agency_that_the_operator_has_to_decide_is_a_comment_in_the_script(legacy):
    legacy.query("ALTER TABLE campaigns DROP agency_id")

    script = run_script(legacy)

    assert "-- ALTER TABLE campaigns ADD COLUMN agency_id uuid;" in script
    assert "-- UPDATE campaigns SET agency_id = …;" in script
    assert "let every service that adds rows write it" in script
    assert legacy.manage("check_database")[0] == 1


def test_the_script_adds_a_status_that_an_enum_lacks():
    with legacy_database(
        schema=SUPABASE_SCHEMA.replace("'completed', 'cancelled', 'failed'", "'completed'")
    ) as database:
        assert database.manage("migrate", "--fake-initial")[0] == 1

        script = run_script(database)
        database.adopt()

        assert "ALTER TYPE batch_status ADD VALUE IF NOT EXISTS 'cancelled';" in script.splitlines()
        assert database.manage("cancel_batch", first_batch(database))[0] == 0


def test_a_contact_without_a_batch_needs_no_campaign(legacy):
    legacy.query(
        """
        ALTER TABLE campaign_contacts ALTER campaign_id DROP NOT NULL;
        UPDATE campaign_contacts SET batch_id = NULL, campaign_id = NULL WHERE phone_number LIKE '%1'
        """
    )

    assert legacy.manage("check_database")[0] == 0
    legacy.query("UPDATE campaign_contacts SET campaign_id = NULL WHERE phone_number LIKE '%2'")
    assert "campaign_id is NULL in 100 rows" in legacy.manage("check_database")[1]


WARNINGS = {
    "campaign_contacts: outcome_notes does not allow NULL": """
        ALTER TABLE campaign_contacts ADD outcome_notes text NOT NULL DEFAULT ''
    """,
    "call_batches: error_message holds at most 40 characters": """
        ALTER TABLE call_batches ALTER error_message TYPE varchar(40)
    """,
}


def test_columns_that_refuse_what_the_dialler_writes_are_warnings_and_the_script_changes_them(legacy):
    for change in WARNINGS.values():
        legacy.query(change)

    code, output = legacy.manage("check_database")
    run_script(legacy)
    legacy.adopt()

    assert code == 0
    for warning in WARNINGS:
        assert f"warning: {warning.partition(': ')[2]}" in output
    assert "calls.W028" not in legacy.manage("check", "--database", "default")[1]


def test_a_stored_value_never_becomes_a_statement_of_the_script():
    schema = re.sub("(?<=[ (])(call_batch_status|contact_status|user_role)(?! AS)", "text", SCHEMAS["legacy"])
    with legacy_database("UPDATE call_batches SET status = E'x\nDROP TABLE calls;\n--'", schema=schema) as database:
        script = database.manage("check_database", "--sql")[1]

    assert "-- DROP TABLE calls;" in script
    assert "DROP TABLE calls;" not in script.splitlines()


def test_a_missing_column_of_phone_numbers_is_added_and_has_to_be_filled_in(supabase):
    supabase.query("ALTER TABLE agency_phone_numbers DROP is_active")

    code, output = supabase.manage("check_database")

    assert code == 0
    assert "will be added: column is_active" in output
    assert "warning: the column is_active is missing" in output

    supabase.adopt()
    assert "warning: is_active is NULL in 2 rows" in supabase.manage("check_database")[1]


def test_the_script_of_a_database_that_lacks_nothing_is_a_comment(supabase):
    assert supabase.manage("check_database", "--sql") == (0, "-- No obstacles or warnings.\n")


PROBLEMS = {
    "calls: id has no unique index": "ALTER TABLE calls DROP CONSTRAINT calls_pkey",
    "calls: agency_id is NULL in": """
        ALTER TABLE calls ALTER agency_id DROP NOT NULL; UPDATE calls SET agency_id = NULL
    """,
    "calls: started_at has the type timestamp without time zone": "ALTER TABLE calls ALTER started_at TYPE timestamp",
    "calls: status has the enum type progress, which does not have the value 'joined'": """
        CREATE TYPE progress AS ENUM ('ringing');
        ALTER TABLE calls DROP status; ALTER TABLE calls ADD status progress
    """,
    "calls: 1 values of ultravox_call_id occur in more than one row": "UPDATE calls SET ultravox_call_id = 'same'",
    "agent_mappings: the column ultravox_agent_id is missing": "ALTER TABLE agent_mappings DROP ultravox_agent_id",
    "agency_phone_numbers: it is a view": """
        ALTER TABLE agency_phone_numbers RENAME TO numbers;
        CREATE VIEW agency_phone_numbers AS SELECT * FROM numbers
    """,
}


def test_obstacles_on_tables_that_a_cancel_does_not_need_are_warnings(supabase):
    for change in PROBLEMS.values():
        supabase.query(change)

    code, output = supabase.manage("migrate", "--fake-initial")

    assert code == 0, output
    for problem in PROBLEMS:
        assert f"(calls.W028) {problem}" in output
    code, output = supabase.manage("check", "--database", "default")
    assert code == 0
    assert output.count("calls.W028") >= len(PROBLEMS)
    assert supabase.manage("cancel_batch", first_batch(supabase))[0] == 0
