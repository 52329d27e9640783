"""Adoption of a legacy database: the columns for holds and replacements, and their undo."""

import psycopg
import pytest

from calls.tests.support.adoption import COLUMNS, snapshot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

ADDED = [
    ("agencies", "held_at", "timestamp with time zone", "timestamptz", "YES", None),
    ("call_batches", "replaces_id", "uuid", "uuid", "YES", None),
]
REPLACES_INDEX = "SELECT indexdef FROM pg_indexes WHERE indexname = 'call_batches_replaces_id_unique'"
CLAIM = "UPDATE campaign_contacts SET status = 'in_progress' WHERE phone_number = '+12125550001'"
ADD_CONTACT = """
    INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, status)
    SELECT agency_id, campaign_id, id, '+12125559999', 'pending' FROM call_batches LIMIT 1
"""


def columns_of(database):
    return [row for row in database.query(COLUMNS) if row[:2] in [row[:2] for row in ADDED]]


def test_the_columns_are_added_and_undone(foreign):
    before = snapshot(foreign)
    assert columns_of(foreign) == []

    foreign.adopt()
    assert columns_of(foreign) == ADDED
    ((index,),) = foreign.query(REPLACES_INDEX)
    assert index.startswith("CREATE UNIQUE INDEX")
    assert "(replaces_id)" in index

    code, output = foreign.manage("migrate", "calls", "0001", "--skip-checks")
    assert (code, "not undone" in output) == (0, False), output
    assert snapshot(foreign) == before
    assert foreign.query("SELECT to_regclass('agency_events')") == [(None,)]


def test_an_upgrade_can_be_undone_alone_and_claims_by_other_services_still_work(adopted):
    code, output = adopted.manage("migrate", "calls", "0014", "--skip-checks")

    assert code == 0, output
    assert columns_of(adopted) == []
    adopted.query(CLAIM)
    code, output = adopted.manage("migrate", "calls", "--skip-checks")
    assert code == 0, output
    assert columns_of(adopted) == ADDED


def test_an_adopted_agency_is_held_and_released(adopted):
    ((slug,),) = adopted.query("SELECT slug FROM agencies LIMIT 1")

    code, output = adopted.manage("hold_agency", slug, "--reason", "A complaint")
    assert (code, f"{slug}: on hold since" in output) == (0, True), output
    with adopted.connect() as service:
        service.execute("SET ROLE edge_functions")
        with pytest.raises(psycopg.errors.CheckViolation, match="which is of an agency on hold") as refusal:
            service.execute(CLAIM)
        assert refusal.value.diag.constraint_name == "contact_batch_live"
        service.execute(ADD_CONTACT)
    code, output = adopted.manage("release_agency", slug)
    assert (code, f"{slug}: not on hold." in output) == (0, True), output

    with adopted.connect() as service:
        service.execute("SET ROLE edge_functions")
        service.execute(CLAIM)
    assert adopted.query("SELECT pgh_label, pgh_context ->> 'reason' FROM agency_events ORDER BY pgh_id") == [
        ("held", "A complaint"),
        ("released", None),
    ]


def test_other_services_cannot_change_the_history_of_an_agency(adopted):
    ((slug,),) = adopted.query("SELECT slug FROM agencies LIMIT 1")
    adopted.manage("hold_agency", slug)

    for statement in ("UPDATE agency_events SET pgh_label = 'x'", "DELETE FROM agency_events"):
        with pytest.raises(psycopg.Error, match="Cannot update or delete rows"):
            adopted.query(statement)


def test_an_adopted_batch_is_replaced(adopted):
    ((batch,),) = adopted.query("SELECT id::text FROM call_batches")
    adopted.query(
        "INSERT INTO agency_phone_numbers (agency_id, phone_number, is_active)"
        " SELECT agency_id, from_number, true FROM call_batches"
    )
    assert adopted.manage("cancel_batch", batch)[0] == 0

    code, output = adopted.manage("replace_batch", batch)

    assert (code, "Contacts: 1000." in output) == (0, True), output
    copied = "batch_id = (SELECT id FROM call_batches WHERE replaces_id IS NOT NULL)"
    assert adopted.query(
        f"SELECT status::text, attempts, count(*) FROM campaign_contacts WHERE {copied} GROUP BY 1, 2"
    ) == [("pending", 0, 1000)]
