"""A database that another team has made and goes on writing: adopted as it is, and given back as it was."""

import re
import threading
import time

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError

from calls.tests.support.concurrency import WAITING, until
from calls.tests.support.legacy_database import LEGACY_TABLES, legacy_database

pytestmark = pytest.mark.django_db(transaction=True)

COLUMNS = """
    SELECT table_name, column_name, data_type, udt_name, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2
"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2"
TRIGGERS = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
SECURITY = """
    SELECT relname, relrowsecurity, relacl::text, reloptions::text FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1
"""


def everything_of(database):
    """All that their tables are and hold."""
    catalog = [
        [row for row in database.query(sql) if row[0] in LEGACY_TABLES]
        for sql in (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, SECURITY)
    ]
    return catalog + [database.query(f"SELECT * FROM {table} ORDER BY id") for table in sorted(LEGACY_TABLES)]


@pytest.fixture
def foreign(db):
    with legacy_database() as database:
        yield database


@pytest.fixture(scope="module")
def once_adopted(django_db_setup):
    with legacy_database() as database:
        database.adopt()
        yield database.name


@pytest.fixture
def adopted(once_adopted):
    """A copy of one that was adopted."""
    with legacy_database(schema="", template=once_adopted) as database:
        yield database


# Before


def test_the_check_says_table_by_table_what_is_there_and_what_will_be_added(foreign):
    code, said = foreign.manage("check_database")

    assert code == 0
    assert "call_batches is there, about" in said
    assert "to be added: column mode" in said
    assert "to be added: default of skipped: 0" in said
    assert "to be added: index contact_in_order (batch_id, created_at, id), while others write" in said
    assert "to be added: index agencies_slug_unique (slug), while others write" in said
    assert "to be added: storage parameter fillfactor = 45, for new pages" in said
    assert "left alone: columns that the app does not know: lead_score" in said
    assert "left alone: triggers of others: zz_set_updated_at" in said
    assert "in the way" not in said


def test_the_check_changes_nothing(foreign):
    before = everything_of(foreign)

    foreign.manage("check_database")

    assert everything_of(foreign) == before


def test_on_an_empty_database_it_says_that_nothing_is_there():
    with legacy_database(schema="SELECT 1") as empty:
        code, said = empty.manage("check_database")

    assert (code, said.count("is not there")) == (0, 8)


RENAMED = "ALTER TABLE {0} RENAME TO old_{0}"
OBSTACLES = {
    "calls: the table is missing": RENAMED.format("calls"),
    "call_batches: status is the enum small without 'scheduled'": """
        ALTER TABLE call_batches ALTER status DROP DEFAULT;
        CREATE TYPE small AS ENUM ('pending', 'processing', 'paused', 'completed', 'cancelled', 'failed');
        ALTER TABLE call_batches ALTER status TYPE small USING status::text::small
    """,
    "ALTER TYPE contacts ADD VALUE 'skipped';": """
        ALTER TABLE campaign_contacts ALTER status DROP DEFAULT;
        CREATE TYPE contacts AS ENUM ('pending', 'queued', 'scheduled', 'in_progress', 'completed', 'failed');
        ALTER TABLE campaign_contacts ALTER status TYPE contacts USING status::text::contacts
    """,
    "call_batches: status is 'exploded' in some rows": """
        ALTER TABLE call_batches ALTER status DROP DEFAULT, ALTER status TYPE text USING status::text;
        UPDATE call_batches SET status = 'exploded'
    """,
    "call_batches: the constraint no_end does not allow status to be 'cancelled', 'failed'": """
        ALTER TABLE call_batches ALTER status DROP DEFAULT, ALTER status TYPE text USING status::text;
        ALTER TABLE call_batches
            ADD CONSTRAINT no_end CHECK (status <> ALL ('{cancelled,failed}') AND status NOT LIKE 'x%')
    """,
    "campaign_contacts: outcome_notes takes 10 characters": """
        ALTER TABLE campaign_contacts ADD COLUMN outcome_notes varchar(10)
    """,
    "campaign_contacts: outcome takes 9 characters": "ALTER TABLE campaign_contacts ALTER outcome TYPE varchar(9)",
    "campaign_contacts: completed_at is timestamp without time zone": """
        ALTER TABLE campaign_contacts ALTER completed_at TYPE timestamp
    """,
    "campaign_contacts: the column batch_id is missing": "ALTER TABLE campaign_contacts DROP batch_id",
    "agencies: the column slug is missing": "ALTER TABLE agencies DROP slug",
    "call_batches: 1 rows have no agency_id": """
        ALTER TABLE call_batches ALTER agency_id DROP NOT NULL;
        UPDATE call_batches SET agency_id = NULL
    """,
    "campaign_contacts: 1000 rows have no status": "UPDATE campaign_contacts SET status = NULL",
    "agencies: 1 values of slug stand in several rows": "INSERT INTO agencies (name, slug) VALUES ('Old', 'old-mill')",
    "calls: id is not its primary key": "ALTER TABLE calls DROP CONSTRAINT calls_pkey",
    "call_batches: queued is computed by the database": """
        ALTER TABLE call_batches DROP queued;
        ALTER TABLE call_batches ADD queued bigint GENERATED ALWAYS AS (total_contacts - completed) STORED
    """,
    "campaign_contacts: the constraint none does not allow status to be 'skipped'": """
        ALTER TABLE campaign_contacts ADD CONSTRAINT none CHECK (status <> 'skipped')
    """,
    "campaign_contacts: the constraint outcomes does not allow outcome to be 'not_placed', 'unknown'": """
        ALTER TABLE campaign_contacts ADD CONSTRAINT outcomes CHECK (outcome IN ('answered', 'no_answer', 'failed'))
    """,
    "calls: status is the enum progress without 'joined'": """
        CREATE TYPE progress AS ENUM ('initiated', 'ringing', 'ended');
        ALTER TABLE calls ALTER status DROP DEFAULT, ALTER status TYPE progress USING status::text::progress
    """,
    "ALTER TYPE direction ADD VALUE 'outbound';": """
        CREATE TYPE direction AS ENUM ('in', 'out');
        ALTER TABLE calls ADD direction direction
    """,
    "users: role is the enum roles without 'agency_owner'": """
        CREATE TYPE roles AS ENUM ('agency_admin', 'agency_member', 'client_admin', 'client_viewer', 'admin');
        UPDATE users SET role = 'admin';
        ALTER TABLE users ALTER role DROP DEFAULT, ALTER role TYPE roles USING role::text::roles
    """,
    "agencies: something else has the name agencies_slug_unique": """
        CREATE UNIQUE INDEX agencies_slug_unique ON agencies (slug) WHERE plan = 'starter'
    """,
    "campaign_contacts: something else has the name contact_by_phone_number": """
        CREATE INDEX contact_by_phone_number ON calls (to_number)
    """,
    "database: there is a table call_batch_events": "CREATE TABLE call_batch_events (id int)",
    "database: there is a table call_adoption": "CREATE TABLE call_adoption (id int)",
    "database: there is a table auth_user": "CREATE TABLE auth_user (id int)",
    "campaign_contacts: it is a view, partitioned, or inherited from": """
        CREATE TABLE contacts_2026 () INHERITS (campaign_contacts)
    """,
    "calls: it is a view, partitioned, or inherited from": RENAMED.format("calls")
    + "; CREATE VIEW calls AS SELECT * FROM old_calls",
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_in_the_way_is_told(obstacle, run_command):
    with legacy_database(OBSTACLES[obstacle]) as database, database.as_default():
        code, said = run_command("check_database")

    assert code == 1
    assert obstacle.split(": ", 1)[-1] in "\n".join(said)


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_in_the_way_is_told_before_anything_is_changed(obstacle):
    with legacy_database(OBSTACLES[obstacle]) as database, database.as_default():
        tables = database.query("SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') ORDER BY 1")

        with pytest.raises((CommandError, SystemCheckError), match=re.escape(obstacle)):
            call_command("migrate", fake_initial=True, verbosity=0, skip_checks=False)

        assert database.query("SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') ORDER BY 1") == tables


ROLE = "DO $$ BEGIN CREATE ROLE {0} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$"


def test_a_role_that_does_not_own_the_tables_is_told(foreign):
    foreign.query(ROLE.format("visitor"))

    code, said = foreign.manage("check_database", DATABASE_URL=foreign.url_for("visitor"))

    assert code == 1
    assert f"it belongs to {foreign.where['user']}, and this connection is visitor" in said
    assert "visitor may create nothing" in said


def test_an_owner_whom_row_level_security_binds_is_told(foreign):
    foreign.query(ROLE.format("proprietor"))
    foreign.query("ALTER TABLE campaign_contacts OWNER TO proprietor")
    foreign.query("ALTER TABLE campaign_contacts FORCE ROW LEVEL SECURITY")

    said = foreign.manage("check_database", DATABASE_URL=foreign.url_for("proprietor"))[1]

    assert "row level security binds its owner too" in said
    assert "ALTER TABLE campaign_contacts NO FORCE ROW LEVEL SECURITY;" in said


def test_a_search_path_that_leads_elsewhere_is_told(foreign):
    foreign.query(f"CREATE SCHEMA private; ALTER DATABASE {foreign.name} SET search_path = private, public")

    code, said = foreign.manage("check_database")

    assert code == 1
    assert "works in the schema private" in said


def test_whoever_forgets_the_flag_is_told_and_nothing_of_theirs_is_changed(foreign):
    before = everything_of(foreign)

    code, said = foreign.manage("migrate")

    assert code == 1
    assert "python manage.py migrate --fake-initial" in said.splitlines()[-1]
    assert everything_of(foreign) == before


def test_what_a_person_has_to_judge_is_listed(db):
    with legacy_database(
        "ALTER TABLE call_batches ADD CONSTRAINT at_once CHECK ((status = 'completed') = (completed_at IS NOT NULL))",
        "ALTER TABLE campaign_contacts ADD list_id uuid; UPDATE campaign_contacts SET list_id = gen_random_uuid();"
        "ALTER TABLE campaign_contacts ALTER list_id SET NOT NULL",
    ) as database:
        said = database.manage("check_database")[1]

    assert "left alone: a constraint that a cancel has to satisfy: at_once CHECK" in said
    assert "left alone: of these the app cannot fill, and so adds no rows here: list_id" in said


# Adoption


def test_what_is_there_stays_and_what_is_lacking_is_added(foreign):
    rows = foreign.query("SELECT id, agency_id, status::text, queued FROM call_batches")

    foreign.adopt()

    assert foreign.query("SELECT id, agency_id, status::text, queued FROM call_batches") == rows
    assert foreign.query("SELECT count(*) FROM campaign_contacts WHERE status = 'queued'") == [(1000,)]
    assert foreign.manage("check", "--database", "default", "--fail-level", "ERROR")[0] == 0
    listed = foreign.manage("check_database")[1]
    assert "to be added" not in listed


def test_a_default_of_theirs_is_kept(adopted):
    adopted.query(
        "INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number)"
        " SELECT agency_id, campaign_id, agent_mapping_id, '+1' FROM call_batches"
    )

    assert adopted.query("SELECT calls_per_minute, skipped, mode FROM call_batches WHERE from_number = '+1'") == [
        (10, 0, "immediate")
    ]


def test_a_fillfactor_of_theirs_is_kept(foreign):
    foreign.query("ALTER TABLE campaign_contacts SET (fillfactor = 90)")

    foreign.adopt()

    options = "SELECT reloptions FROM pg_class WHERE relname = 'campaign_contacts'"
    assert foreign.query(options) == [(["fillfactor=90"],)]


def test_the_planner_knows_what_it_needs_of_the_new_indexes(adopted):
    assert adopted.query("SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'contact_under_way_in'") == [(True,)]


def test_the_first_cancel_works_at_once(adopted):
    ((batch,),) = adopted.query("SELECT id::text FROM call_batches")

    code, said = adopted.manage("cancel_batch", batch)

    assert (code, "Contacts skipped: 1000." in said) == (0, True)
    assert adopted.query("SELECT DISTINCT status::text, outcome_notes FROM campaign_contacts") == [
        ("skipped", "Batch cancelled")
    ]
    # It was empty: skipped had no default before.
    assert adopted.query("SELECT skipped, total_contacts FROM call_batches") == [(1000, 1000)]


def test_their_services_go_on_writing_and_are_refused_where_the_promise_needs_it(adopted):
    ((batch,),) = adopted.query("SELECT id::text FROM call_batches")
    retry = "UPDATE campaign_contacts SET status = 'queued' WHERE id = (SELECT id FROM campaign_contacts LIMIT 1)"

    with adopted.connect() as service:
        service.execute("SET ROLE edge_functions")
        service.execute("UPDATE campaign_contacts SET status = 'in_progress' WHERE phone_number = '+12125550001'")
        assert adopted.manage("cancel_batch", batch)[0] == 0

        with pytest.raises(psycopg.errors.CheckViolation) as refusal:
            service.execute(retry)
        assert refusal.value.diag.constraint_name == "contact_batch_live"
        service.execute("UPDATE campaign_contacts SET status = 'completed' WHERE phone_number = '+12125550001'")


def test_adopting_can_be_interrupted_at_any_step_and_done_again(foreign):
    """A statement fails in the middle, as when the connection or the machine is gone."""
    foreign.query(
        """
        CREATE FUNCTION interrupt() RETURNS event_trigger LANGUAGE plpgsql AS $$
        DECLARE remaining int := current_setting('interrupt.remaining');
        BEGIN
            IF remaining = 0 THEN RAISE EXCEPTION 'interrupted'; END IF;
            PERFORM set_config('interrupt.remaining', (remaining - 1)::text, false);
        END $$;
        CREATE EVENT TRIGGER interrupt ON ddl_command_end WHEN TAG IN ('ALTER TABLE', 'CREATE INDEX')
            EXECUTE FUNCTION interrupt()
        """
    )
    interrupted = 0
    for left in (1, 4, 9, 9, 9, 5, 3, 2, 1, 1, 100):
        foreign.query(f"ALTER DATABASE {foreign.name} SET interrupt.remaining = {left}")
        code, said = foreign.manage("migrate", "--fake-initial", "calls", "0002")
        if code == 0:
            break
        assert "interrupted" in said
        interrupted += 1
    foreign.query("DROP EVENT TRIGGER interrupt")
    assert code == 0
    assert interrupted >= 5

    foreign.adopt()
    assert foreign.manage("check", "--database", "default")[0] == 0


def test_an_index_whose_building_was_cut_off_is_built_again(adopted):
    adopted.query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'contact_in_order'::regclass")

    assert "calls.E011" in adopted.manage("check", "--database", "default")[1]
    assert adopted.manage("repair_database")[0] == 0

    assert adopted.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'contact_in_order'::regclass") == [(True,)]


# Beside writers


class Writers(threading.Thread):
    """
    Another service that writes one row after another, and waits for a lock no longer than a second.

    ``gave_up`` says that it had to wait longer.
    """

    def __init__(self, database):
        super().__init__(daemon=True)
        self.database, self.done, self.written, self.gave_up = database, threading.Event(), 0, False

    def run(self):
        with self.database.connect(options="-c lock_timeout=1s") as service:
            while not self.done.is_set():
                try:
                    service.execute("UPDATE campaign_contacts SET lead_score = 1 WHERE phone_number = '+12125550001'")
                    service.execute(
                        "INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number)"
                        " SELECT agency_id, campaign_id, agent_mapping_id, '+1' FROM call_batches LIMIT 1"
                    )
                    self.written += 1
                except psycopg.errors.LockNotAvailable:
                    self.gave_up = True

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.done.set()
        self.join()


def adopt_beside_writers(foreign, *command):
    """Adopt it while one service writes, and another has a transaction open on a contact: for 3 s after it is met."""
    with Writers(foreign) as writers, foreign.connect() as long:
        with long.transaction():
            long.execute("UPDATE campaign_contacts SET lead_score = 2 WHERE phone_number = '+12125550002'")
            migration = foreign.start(*command)
            until(lambda: foreign.query(WAITING))
            time.sleep(3)
        _, err = migration.communicate(timeout=60)
    assert migration.returncode == 0, err
    assert writers.written > 0
    return writers.gave_up


MIGRATE = ("migrate", "--fake-initial", "--verbosity", "0")
WITHOUT_PATIENCE = """
from calls.database.adoption import steps
steps.LOCK_TIMEOUT = "60s"
from django.core.management import call_command
call_command("migrate", fake_initial=True, verbosity=0)
"""


def test_no_writer_waits_for_a_second_even_while_somebodys_transaction_is_long(foreign):
    assert adopt_beside_writers(foreign, *MIGRATE) is False


def test_nor_when_everything_is_taken_back(adopted):
    assert adopt_beside_writers(adopted, "migrate", "calls", "0001", "--verbosity", "0") is False


def test_nor_when_somebody_holds_the_history_while_the_last_migrations_run(foreign):
    foreign.manage("migrate", "--fake-initial", "calls", "0003")

    with Writers(foreign) as writers, foreign.connect() as long, long.transaction():
        long.execute("UPDATE call_batches SET status = 'paused'")
        assert foreign.manage("migrate")[0] == 0

    assert writers.gave_up is False


def test_control_without_giving_locks_up_writers_wait_as_long_as_the_transaction(foreign):
    assert adopt_beside_writers(foreign, "shell", "--no-imports", "--command", WITHOUT_PATIENCE) is True


# And back


def test_one_command_leaves_their_tables_as_they_were(foreign):
    before = everything_of(foreign)
    foreign.adopt()
    assert everything_of(foreign) != before

    code, said = foreign.manage("migrate", "calls", "0001")

    assert code == 0, said
    assert "left alone" not in said
    assert everything_of(foreign) == before
    assert foreign.query("SELECT proname FROM pg_proc WHERE proname ~ 'pgtrigger'") == []
    assert foreign.query("SELECT to_regclass('call_batch_events'), to_regclass('call_adoption')") == [(None, None)]


def test_what_they_have_changed_since_is_theirs_and_stays(adopted, caplog):
    adopted.query("ALTER TABLE call_batches ALTER skipped SET DEFAULT 7")
    adopted.query("ALTER TABLE calls DROP direction")
    adopted.query("CREATE VIEW titles AS SELECT title FROM campaign_contacts")
    adopted.query("DROP TRIGGER pgtrigger_batch_final_28c79 ON call_batches")

    code, said = adopted.manage("migrate", "calls", "0001", "--skip-checks")

    assert code == 0, said
    assert "left alone, since it was changed: call_batches: default of skipped" in said
    assert "left alone: campaign_contacts: column title" in said
    assert ("call_batches", "skipped", "7") in [(row[0], row[1], row[-1]) for row in adopted.query(COLUMNS)]
    assert adopted.query("SELECT count(*) FROM titles") == [(1000,)]


def test_what_remains_stays_closed_to_the_data_api(adopted):
    adopted.manage("migrate", "calls", "0001")

    assert (
        adopted.query(
            "SELECT relname FROM pg_class WHERE relname ~ '^(auth|django)_' AND relkind = 'r' AND NOT relrowsecurity"
        )
        == []
    )


def test_it_can_be_adopted_again_afterwards(adopted):
    adopted.manage("migrate", "calls", "0001")

    adopted.adopt()

    assert adopted.manage("check", "--database", "default")[0] == 0


def test_their_tables_are_never_dropped(adopted):
    code, said = adopted.manage("migrate", "calls", "zero")

    assert code == 1
    assert "The agencies' tables are not dropped" in said
    assert adopted.query("SELECT count(*) FROM campaign_contacts") == [(1000,)]


def test_nothing_is_repaired_where_nothing_was_adopted(foreign):
    before = everything_of(foreign)

    code, said = foreign.manage("repair_database")

    assert (code, "run the migrations first" in said) == (1, True)
    assert everything_of(foreign) == before


# The check, afterwards


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("ALTER TABLE call_batches DISABLE TRIGGER USER", "batch_final of call_batches is disabled"),
        ("DROP TRIGGER {trigger} ON call_batches", "batch_final of call_batches is missing"),
        (
            "COMMENT ON TRIGGER {trigger} ON call_batches IS 'of last year'",
            "batch_final of call_batches is not the one",
        ),
        ("ALTER FUNCTION {trigger} SECURITY INVOKER", "batch_final of call_batches does not run as its owner"),
        (
            "CREATE OR REPLACE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = public, pg_temp AS 'BEGIN RETURN NEW; END'",
            "batch_final of call_batches does something else",
        ),
        ("ALTER FUNCTION {trigger} OWNER TO edge_functions", "batch_final of call_batches does not run as its owner"),
        ("ALTER FUNCTION {trigger} RESET ALL", "batch_final of call_batches does not run as its owner"),
        (
            "ALTER TABLE campaign_contacts ALTER do_not_call DROP DEFAULT",
            "campaign_contacts lacks the default of do_not_call",
        ),
        ("DROP INDEX contact_in_order", "campaign_contacts lacks the index contact_in_order"),
        (
            "ALTER TABLE campaign_contacts RESET (fillfactor)",
            "campaign_contacts lacks the storage parameter fillfactor = 45",
        ),
        (
            "ALTER TABLE call_batches DROP CONSTRAINT batch_mode_known",
            "call_batches lacks the constraint batch_mode_known",
        ),
    ],
)
def test_what_is_taken_away_later_is_told_and_can_be_put_back(adopted, damage, message):
    ((trigger,),) = adopted.query("SELECT tgname FROM pg_trigger WHERE tgname ~ 'batch_final'")
    adopted.query(damage.format(trigger=trigger))

    with adopted.as_default():
        with pytest.raises(SystemCheckError, match=f"{message}(.|\n)*python manage.py repair_database"):
            call_command("check", databases=["default"])
        call_command("repair_database")
        call_command("check", databases=["default"])


def test_a_label_that_is_lost_later_is_told_with_the_statement_that_adds_it(adopted):
    adopted.query("ALTER TYPE call_batch_status RENAME VALUE 'scheduled' TO 'planned'")

    code, said = adopted.manage("check", "--database", "default")

    assert code == 1
    assert "ALTER TYPE call_batch_status ADD VALUE 'scheduled';" in said
