"""Adoption of ``users.client_id`` and ``campaigns.client_id``, and its undo."""

import pytest

from calls.tests.support.legacy_database import legacy_database

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

CLIENT_COLUMNS = """
    SELECT table_name, data_type, is_nullable FROM information_schema.columns
    WHERE table_schema = 'public' AND column_name = 'client_id' ORDER BY 1
"""
CLIENTS = """
    CREATE TABLE clients (id uuid PRIMARY KEY, agency_id uuid NOT NULL REFERENCES agencies);
    INSERT INTO clients SELECT gen_random_uuid(), id FROM agencies;
    ALTER TABLE users ADD client_id uuid REFERENCES clients;
    ALTER TABLE campaigns ADD client_id uuid REFERENCES clients;
    UPDATE campaigns SET client_id = clients.id FROM clients;
    ALTER TABLE campaigns ALTER client_id SET NOT NULL;
"""


def test_missing_columns_are_added_and_undone(adopted):
    assert adopted.query(CLIENT_COLUMNS) == [("campaigns", "uuid", "YES"), ("users", "uuid", "YES")]

    code, output = adopted.manage("migrate", "calls", "0012")

    assert (code, "not undone" in output) == (0, False), output
    assert adopted.query(CLIENT_COLUMNS) == []


def test_existing_columns_are_used_as_they_are_and_kept_by_an_undo(db):
    with legacy_database(CLIENTS) as database:
        before = database.query(CLIENT_COLUMNS), database.query("SELECT client_id FROM campaigns")

        database.adopt()
        adopted = database.query(CLIENT_COLUMNS), database.query("SELECT client_id FROM campaigns")
        code, output = database.manage("migrate", "calls", "0012")
        undone = database.query(CLIENT_COLUMNS), database.query("SELECT client_id FROM campaigns")

    assert code == 0, output
    assert before == adopted == undone


def test_a_column_of_another_type_does_not_stop_an_adoption(db):
    with legacy_database(
        "ALTER TABLE users ADD client_id bigint; ALTER TABLE campaigns ADD client_id bigint"
    ) as database:
        database.adopt()

        assert "client_id" not in database.manage("check", "--database", "default")[1]
