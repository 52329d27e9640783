"""Undo of an adoption: ``migrate calls 0001`` leaves the legacy tables as they were."""

import pytest

from calls.tests.support.adoption import COLUMNS, snapshot
from calls.tests.support.legacy_database import LEGACY_TABLES

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]


def test_undo_leaves_the_tables_as_they_were(foreign):
    before = snapshot(foreign)
    foreign.adopt()
    assert snapshot(foreign) != before

    code, output = foreign.manage("migrate", "calls", "0001")

    assert code == 0, output
    assert "not undone" not in output
    assert snapshot(foreign) == before
    assert foreign.query("SELECT proname FROM pg_proc WHERE proname ~ 'pgtrigger'") == []
    assert foreign.query("SELECT to_regclass('call_batch_events'), to_regclass('call_adoption')") == [(None, None)]


def test_undo_drops_the_tables_that_the_adoption_added(supabase):
    supabase.query("DROP TABLE calls, agent_mappings CASCADE")
    before = supabase.query(COLUMNS)
    supabase.adopt()

    code, output = supabase.manage("migrate", "calls", "0001", "--skip-checks")

    assert code == 0, output
    assert "not undone" not in output
    assert [row for row in supabase.query(COLUMNS) if row[0] in LEGACY_TABLES] == [
        row for row in before if row[0] in LEGACY_TABLES
    ]


def test_undo_keeps_a_table_that_the_adoption_added_once_it_has_rows(supabase):
    supabase.query("DROP TABLE calls, agent_mappings CASCADE")
    supabase.adopt()
    supabase.query("INSERT INTO agent_mappings (agency_id, ultravox_agent_id) SELECT id, 'agent' FROM agencies LIMIT 1")

    code, output = supabase.manage("migrate", "calls", "0001", "--skip-checks")

    assert code == 0, output
    assert "not undone: agent_mappings: table without rows" in output
    assert supabase.query("SELECT ultravox_agent_id FROM agent_mappings") == [("agent",)]
    assert supabase.query("SELECT to_regclass('calls')") == [(None,)]


def test_additions_that_were_changed_since_are_kept_and_logged(adopted):
    adopted.query("ALTER TABLE call_batches ALTER skipped SET DEFAULT 7")
    adopted.query("ALTER TABLE calls DROP direction")
    adopted.query("CREATE VIEW titles AS SELECT title FROM campaign_contacts")
    adopted.query("DROP TRIGGER pgtrigger_batch_final_28c79 ON call_batches")

    code, output = adopted.manage("migrate", "calls", "0001", "--skip-checks")

    assert code == 0, output
    assert "not undone, because it was changed since: call_batches: default of skipped" in output
    assert "not undone: campaign_contacts: column title" in output
    assert ("call_batches", "skipped", "7") in [(row[0], row[1], row[-1]) for row in adopted.query(COLUMNS)]
    assert adopted.query("SELECT count(*) FROM titles") == [(1000,)]


def test_the_tables_that_remain_stay_closed_to_the_data_api(adopted):
    adopted.manage("migrate", "calls", "0001")

    assert (
        adopted.query(
            "SELECT relname FROM pg_class WHERE relname ~ '^(auth|django)_' AND relkind = 'r' AND NOT relrowsecurity"
        )
        == []
    )


def test_the_tables_can_be_adopted_again_after_undo(adopted):
    adopted.manage("migrate", "calls", "0001")

    adopted.adopt()

    assert adopted.manage("check", "--database", "default")[0] == 0


def test_a_migration_that_would_drop_the_tables_changes_nothing(adopted):
    before = snapshot(adopted)

    code, output = adopted.manage("migrate", "calls", "zero")

    assert code == 1
    assert "The agencies' tables are not dropped" in output
    assert snapshot(adopted) == before


def test_repair_database_refuses_a_database_that_was_not_adopted(legacy):
    before = snapshot(legacy)

    code, output = legacy.manage("repair_database")

    assert (code, "run the migrations first" in output) == (1, True)
    assert snapshot(legacy) == before
