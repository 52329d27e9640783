"""The database checks after adoption: damage is reported, and ``repair_database`` repairs it."""

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("ALTER TABLE call_batches DISABLE TRIGGER USER", "batch_final of call_batches is disabled"),
        ("DROP TRIGGER {trigger} ON call_batches", "batch_final of call_batches is missing"),
        (
            "COMMENT ON TRIGGER {trigger} ON call_batches IS 'of last year'",
            "batch_final of call_batches does not match this version",
        ),
        ("ALTER FUNCTION {trigger} SECURITY INVOKER", "batch_final of call_batches does not run as the table's owner"),
        (
            "CREATE OR REPLACE FUNCTION {trigger}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = public, pg_temp AS 'BEGIN RETURN NEW; END'",
            "batch_final of call_batches runs a function that was changed",
        ),
        (
            "ALTER FUNCTION {trigger} OWNER TO edge_functions",
            "batch_final of call_batches does not run as the table's owner",
        ),
        ("ALTER FUNCTION {trigger} RESET ALL", "batch_final of call_batches does not run as the table's owner"),
        (
            "ALTER TABLE campaign_contacts ALTER do_not_call DROP DEFAULT",
            "campaign_contacts: missing default of do_not_call",
        ),
        ("DROP INDEX contact_in_order", "campaign_contacts: missing index contact_in_order"),
        ("ALTER TABLE agencies DROP held_at", "agencies: missing column held_at"),
        ("ALTER TABLE call_batches DROP replaces_id", "call_batches: missing column replaces_id"),
        (
            "DROP INDEX call_batches_replaces_id_unique",
            "call_batches: missing index call_batches_replaces_id_unique",
        ),
        (
            "DROP TRIGGER pgtrigger_append_only_3e2be ON agency_events",
            "append_only of agency_events is missing",
        ),
        (
            "ALTER TABLE campaign_contacts RESET (fillfactor)",
            "campaign_contacts: missing storage parameter fillfactor = 45",
        ),
        (
            "ALTER TABLE call_batches DROP CONSTRAINT batch_mode_known",
            "call_batches: missing constraint batch_mode_known",
        ),
    ],
)
def test_damage_is_reported_and_can_be_repaired(adopted, damage, message):
    ((trigger,),) = adopted.query("SELECT tgname FROM pg_trigger WHERE tgname ~ 'batch_final'")
    adopted.query(damage.format(trigger=trigger))

    with adopted.as_default():
        with pytest.raises(SystemCheckError, match=f"{message}(.|\n)*python manage.py repair_database"):
            call_command("check", databases=["default"])
        call_command("repair_database")
        call_command("check", databases=["default"])


def test_a_missing_enum_value_is_reported_with_the_statement_that_adds_it(adopted):
    adopted.query("ALTER TYPE call_batch_status RENAME VALUE 'scheduled' TO 'planned'")

    code, output = adopted.manage("check", "--database", "default")

    assert code == 1
    assert "ALTER TYPE call_batch_status ADD VALUE IF NOT EXISTS 'scheduled';" in output
