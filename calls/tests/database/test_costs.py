"""What makes a cancel slow in an adopted database: each cost is listed, and its statements remove it."""

import re

import pytest

from calls.database.adoption.costs import CONTACTS, costs_of_cancel
from calls.tests.support.factories import ROOT

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

FUNCTION = """
    CREATE TABLE fired (operation text, status text);
    CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO fired SELECT TG_OP, CASE WHEN TG_OP <> 'DELETE' THEN NEW.status END;
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END $$;
"""
ON_EACH_ROW = "ON campaign_contacts FOR EACH ROW"
ADD_CONTACTS = """
    INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, first_name, status)
    SELECT agency_id, campaign_id, id, '+1213' || number, repeat('a', 50), 'queued'
    FROM call_batches, generate_series(1, 12000) AS number;
    ANALYZE campaign_contacts
"""

COSTS = [
    (
        "CREATE INDEX theirs ON campaign_contacts (batch_id, status)",
        "the index theirs contains status",
        "DROP INDEX CONCURRENTLY theirs;",
    ),
    (
        "CREATE INDEX theirs ON campaign_contacts (batch_id) WHERE status = 'queued'",
        "the index theirs contains status",
        "DROP INDEX CONCURRENTLY theirs;",
    ),
    (
        "CREATE INDEX theirs ON campaign_contacts (upper(outcome_notes))",
        "the index theirs contains outcome_notes",
        "DROP INDEX CONCURRENTLY theirs;",
    ),
    (
        "CREATE INDEX theirs ON campaign_contacts (phone_number) INCLUDE (status, updated_at)",
        "the index theirs contains status, updated_at",
        "DROP INDEX CONCURRENTLY theirs;",
    ),
    (
        "ALTER TABLE campaign_contacts ADD waits boolean GENERATED ALWAYS AS (status = 'queued') STORED;"
        'CREATE UNIQUE INDEX "Waits" ON campaign_contacts (id, waits)',
        'the index "Waits" contains waits',
        'DROP INDEX CONCURRENTLY "Waits";',
    ),
    (
        "ALTER TABLE campaign_contacts ADD CONSTRAINT theirs UNIQUE (id, status)",
        "the index theirs contains status",
        "ALTER TABLE campaign_contacts DROP CONSTRAINT theirs;",
    ),
    (
        f"CREATE TRIGGER theirs BEFORE UPDATE {ON_EACH_ROW} EXECUTE FUNCTION note_it()",
        "the trigger theirs is called BEFORE",
        "CREATE OR REPLACE TRIGGER theirs BEFORE UPDATE ON public.campaign_contacts FOR EACH ROW"
        " WHEN (NEW.status IS DISTINCT FROM 'skipped' OR OLD.status = 'skipped') EXECUTE FUNCTION note_it();",
    ),
    (
        f"CREATE TRIGGER theirs AFTER UPDATE OF status {ON_EACH_ROW} WHEN (NEW.status <> OLD.status)"
        " EXECUTE FUNCTION note_it('a', 'b')",
        "the trigger theirs is called AFTER",
        "CREATE OR REPLACE TRIGGER theirs AFTER UPDATE OF status ON public.campaign_contacts FOR EACH ROW"
        " WHEN ((NEW.status IS DISTINCT FROM 'skipped' OR OLD.status = 'skipped') AND (new.status <> old.status))"
        " EXECUTE FUNCTION note_it('a', 'b');",
    ),
    (
        f'CREATE TRIGGER "Their audit" AFTER INSERT OR UPDATE OR DELETE {ON_EACH_ROW} EXECUTE FUNCTION note_it()',
        "the trigger Their audit is called AFTER",
        'CREATE TRIGGER "Their audit_on_update" AFTER UPDATE ON public.campaign_contacts FOR EACH ROW'
        " WHEN (NEW.status IS DISTINCT FROM 'skipped' OR OLD.status = 'skipped') EXECUTE FUNCTION note_it();",
    ),
    (
        "CREATE CONSTRAINT TRIGGER theirs AFTER UPDATE ON campaign_contacts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " EXECUTE FUNCTION note_it()",
        "the trigger theirs is called AFTER",
        "DROP TRIGGER theirs ON campaign_contacts;",
    ),
    (
        "CREATE PUBLICATION theirs FOR TABLE campaign_contacts, call_batches",
        "the publication theirs sends an event for each contact",
        "ALTER PUBLICATION theirs DROP TABLE campaign_contacts;",
    ),
    (
        "CREATE PUBLICATION theirs FOR TABLE campaign_contacts; ALTER TABLE campaign_contacts REPLICA IDENTITY FULL",
        "REPLICA IDENTITY FULL",
        "ALTER TABLE campaign_contacts REPLICA IDENTITY DEFAULT;",
    ),
    (
        "ALTER TABLE campaign_contacts SET (fillfactor = 90)",
        "its fillfactor is 90",
        "ALTER TABLE campaign_contacts SET (fillfactor = 45);",
    ),
    (
        f"ALTER TABLE campaign_contacts SET (fillfactor = 100); {ADD_CONTACTS}",
        "its pages are about",
        "VACUUM FULL campaign_contacts;",
    ),
]


def costs_of(database):
    with database.as_default():
        return costs_of_cancel(CONTACTS)


def follow(database, *costs):
    """Run the statements of the costs one by one, in one session."""
    with database.connect() as operator:
        for cost in costs:
            for statement in cost.statements:
                operator.execute(statement)


@pytest.mark.parametrize(("create", "problem", "statement"), COSTS)
def test_a_cost_is_listed_and_its_statements_end_it(adopted, create, problem, statement):
    adopted.query(FUNCTION)
    assert not [cost for cost in costs_of(adopted) if problem in cost.problem]

    adopted.query(create)

    (cost,) = (cost for cost in costs_of(adopted) if problem in cost.problem)
    assert any(each.startswith(statement) for each in cost.statements)
    follow(adopted, cost)
    assert not [cost for cost in costs_of(adopted) if problem in cost.problem]


@pytest.mark.parametrize("tables", ["TABLES IN SCHEMA public", "ALL TABLES"])
def test_a_publication_without_a_list_of_tables_is_listed_without_a_statement(adopted, tables):
    """A statement would lose the filters of its other tables, and tables that are added later."""
    adopted.query(f"CREATE PUBLICATION theirs FOR {tables} WITH (publish = 'insert, update')")

    (cost,) = (cost for cost in costs_of(adopted) if "the publication theirs" in cost.problem)

    assert cost.statements == ()
    assert "create it again with a list of tables" in cost.advice


@pytest.mark.parametrize(
    "create",
    [
        "CREATE INDEX theirs ON campaign_contacts (phone_number) WHERE completed_at IS NULL",
        "CREATE INDEX theirs ON campaign_contacts USING brin (updated_at)",
        "CREATE INDEX theirs ON call_batches (status, updated_at)",
        f"CREATE TRIGGER theirs BEFORE INSERT OR DELETE {ON_EACH_ROW} EXECUTE FUNCTION note_it()",
        f"CREATE TRIGGER theirs BEFORE UPDATE OF lead_score {ON_EACH_ROW} EXECUTE FUNCTION note_it()",
        f"CREATE TRIGGER theirs AFTER UPDATE {ON_EACH_ROW} WHEN (NEW.status = 'completed') EXECUTE FUNCTION note_it()",
        f"CREATE TRIGGER theirs BEFORE UPDATE {ON_EACH_ROW} WHEN (NEW.updated_at = OLD.updated_at)"
        " EXECUTE FUNCTION note_it()",
        f"CREATE TRIGGER theirs AFTER UPDATE {ON_EACH_ROW} EXECUTE FUNCTION note_it();"
        " ALTER TABLE campaign_contacts DISABLE TRIGGER theirs",
        "CREATE TRIGGER theirs AFTER UPDATE ON call_batches FOR EACH ROW EXECUTE FUNCTION note_it()",
        "CREATE PUBLICATION theirs FOR ALL TABLES WITH (publish = 'insert')",
        "CREATE PUBLICATION theirs FOR TABLE call_batches, call_batch_events",
        "ALTER TABLE campaign_contacts REPLICA IDENTITY FULL",
        ADD_CONTACTS,
    ],
)
def test_what_does_not_slow_down_a_cancel_is_not_listed(adopted, create):
    before = costs_of(adopted)
    adopted.query(FUNCTION)

    adopted.query(create)

    assert costs_of(adopted) == before


def test_a_database_of_the_app_has_no_costs():
    assert costs_of_cancel(CONTACTS) == []


def test_check_database_prints_the_costs_until_their_statements_were_run(adopted):
    _, output = adopted.manage("check_database")
    assert "    note: the index idx_contacts_status contains status, which a cancel writes: " in output
    assert "\n        DROP INDEX CONCURRENTLY idx_contacts_status;\n" in output

    follow(adopted, *costs_of(adopted))

    assert not re.search("a cancel (takes|writes|skips)", adopted.manage("check_database")[1])


def test_a_trigger_that_was_split_fires_for_everything_but_the_skip_itself(adopted):
    adopted.query(
        FUNCTION + f"CREATE TRIGGER theirs BEFORE INSERT OR UPDATE OR DELETE {ON_EACH_ROW} EXECUTE FUNCTION note_it()"
    )
    follow(adopted, *costs_of(adopted))

    adopted.query(
        "INSERT INTO campaign_contacts (agency_id, campaign_id, phone_number, status)"
        " SELECT agency_id, campaign_id, '+2', 'skipped' FROM call_batches"
    )
    for change in ("status = 'in_progress'", "status = 'skipped'", "first_name = 'Amara'"):
        adopted.query(f"UPDATE campaign_contacts SET {change} WHERE phone_number = '+2'")
    adopted.query("DELETE FROM campaign_contacts WHERE phone_number = '+2'")

    assert adopted.query("SELECT * FROM fired") == [
        ("INSERT", "skipped"),
        ("UPDATE", "in_progress"),
        ("UPDATE", "skipped"),
        ("DELETE", None),
    ]


def test_a_condition_that_fails_counts_as_true(adopted):
    adopted.query(FUNCTION + "UPDATE campaign_contacts SET first_name = 'Amara'")
    adopted.query(
        f"CREATE TRIGGER theirs AFTER UPDATE {ON_EACH_ROW} WHEN (NEW.first_name::int = 1) EXECUTE FUNCTION note_it()"
    )

    assert [cost for cost in costs_of(adopted) if "the trigger theirs" in cost.problem]


def test_the_documented_broadcast_sends_one_event_for_a_cancelled_batch(adopted):
    adopted.query(
        "DO $$ BEGIN CREATE ROLE authenticated; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;"
        "CREATE SCHEMA realtime; CREATE TABLE realtime.sent (payload jsonb, event text, topic text, private boolean);"
        "CREATE TABLE realtime.messages (); CREATE SCHEMA auth;"
        "CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql RETURN '';"
        "CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql RETURN NULL::uuid;"
        "CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)"
        " RETURNS void LANGUAGE sql AS 'INSERT INTO realtime.sent VALUES ($1, $2, $3, $4)'"
    )
    for documented in re.findall(r"```sql\n(.+?)```", (ROOT / "docs/adopt.md").read_text(), re.DOTALL):
        adopted.query(documented)
    ((batch, agency),) = adopted.query("SELECT id::text, agency_id::text FROM call_batches")

    assert adopted.manage("cancel_batch", batch)[0] == 0

    assert adopted.query(
        "SELECT payload->>'batch_id', payload->>'status', payload->'skipped', topic, private, event FROM realtime.sent"
    ) == [(batch, "cancelled", 1000, f"agency:{agency}", True, "batch")]
