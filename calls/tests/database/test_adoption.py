"""Adoption of a legacy database: what is added, what stays, and what other services see."""

import psycopg
import pytest

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]


def test_existing_rows_stay_and_everything_missing_is_added(legacy):
    rows = legacy.query("SELECT id, agency_id, status::text, queued FROM call_batches")

    legacy.adopt()

    assert legacy.query("SELECT id, agency_id, status::text, queued FROM call_batches") == rows
    assert legacy.query("SELECT count(*) FROM campaign_contacts WHERE status = 'queued'") == [(1000,)]
    assert legacy.manage("check", "--database", "default", "--fail-level", "ERROR")[0] == 0
    assert "will be added" not in legacy.manage("check_database")[1]


def test_an_existing_default_is_kept(adopted):
    adopted.query(
        "INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number)"
        " SELECT agency_id, campaign_id, agent_mapping_id, '+1' FROM call_batches"
    )

    assert adopted.query("SELECT calls_per_minute, skipped, mode FROM call_batches WHERE from_number = '+1'") == [
        (10, 0, "immediate")
    ]


def test_an_existing_fillfactor_is_kept(legacy):
    legacy.query("ALTER TABLE campaign_contacts SET (fillfactor = 90)")

    legacy.adopt()

    options = "SELECT reloptions FROM pg_class WHERE relname = 'campaign_contacts'"
    assert legacy.query(options) == [(["fillfactor=90"],)]


def test_a_new_index_on_an_expression_has_statistics(adopted):
    assert adopted.query("SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'contact_under_way_in'") == [(True,)]


def test_a_batch_can_be_cancelled_right_after_adoption(adopted):
    ((batch,),) = adopted.query("SELECT id::text FROM call_batches")

    code, output = adopted.manage("cancel_batch", batch)

    assert (code, "Contacts skipped: 1000." in output) == (0, True)
    assert adopted.query("SELECT DISTINCT status::text, outcome_notes FROM campaign_contacts") == [
        ("skipped", "Batch cancelled")
    ]
    # skipped was NULL before, because it had no default.
    assert adopted.query("SELECT skipped, total_contacts FROM call_batches") == [(1000, 1000)]


def test_other_services_keep_writing_but_cannot_retry_a_contact_of_a_cancelled_batch(adopted):
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


def test_an_interrupted_adoption_can_be_continued(legacy):
    """An event trigger makes one statement fail, as if the connection was lost."""
    legacy.query(
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
    for remaining in (1, 4, 9, 9, 9, 5, 3, 2, 1, 1, 100):
        legacy.query(f"ALTER DATABASE {legacy.name} SET interrupt.remaining = {remaining}")
        code, output = legacy.manage("migrate", "--fake-initial", "calls", "0002")
        if code == 0:
            break
        assert "interrupted" in output
        interrupted += 1
    legacy.query("DROP EVENT TRIGGER interrupt")
    assert code == 0
    assert interrupted >= 5

    legacy.adopt()
    assert legacy.manage("check", "--database", "default")[0] == 0


def test_an_invalid_index_is_built_again(adopted):
    adopted.query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'contact_in_order'::regclass")

    assert "calls.E011" in adopted.manage("check", "--database", "default")[1]
    assert adopted.manage("repair_database")[0] == 0

    assert adopted.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'contact_in_order'::regclass") == [(True,)]
