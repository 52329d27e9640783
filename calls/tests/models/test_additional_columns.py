"""Call.record_placed(): the columns of ``calls`` that other services have added."""

import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.database import additional_columns as module
from calls.database.additional_columns import additional_columns
from calls.dialler.claims import claim_next_contact
from calls.models import Call
from calls.tests.support.factories import CALLER_ID

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_columns_are_read_again")]


@pytest.fixture
def _columns_are_read_again():
    def forget():
        additional_columns.cache_clear()
        module._warn_once.cache_clear()

    forget()
    yield
    forget()


def alter(*statements):
    with connection.cursor() as cursor:
        # Otherwise the foreign keys of the test's rows are still to be checked, which forbids ALTER TABLE.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for statement in statements:
            cursor.execute(statement)


def add_columns(*definitions):
    alter(*(f"ALTER TABLE calls ADD COLUMN {definition}" for definition in definitions))


def place(tenant):
    """Claim a contact of a new batch and record its call. Return the batch."""
    batch = tenant.batch(queued=1)
    assert Call.record_placed(claim_next_contact(batch), str(uuid.uuid4()), caller_id=CALLER_ID)
    return batch


def values(*columns):
    """Return these columns of the only call."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(columns)} FROM calls")
        (row,) = cursor.fetchall()
    return row


def test_the_columns_whose_value_is_known_are_filled(harbour):
    add_columns(
        "agent_mapping_id uuid REFERENCES agent_mappings",
        "agent_id uuid NOT NULL REFERENCES agent_mappings DEFERRABLE INITIALLY DEFERRED",
        "campaign_id uuid",
        "source varchar(20)",
        "cost numeric",
    )

    batch = place(harbour)

    agent = harbour.agent.pk
    assert values("agent_mapping_id", "agent_id", "campaign_id", "source", "cost") == (
        *(agent, agent, harbour.campaign.pk, "batch", None),
    )
    call = Call.objects.get()
    assert (call.contact, call.batch, call.direction) == (batch.contacts.get(), batch, "outbound")
    assert (call.from_number, call.metadata, call.status) == (CALLER_ID, {"attempt": 1}, "initiated")


def test_the_client_is_that_of_the_campaign(harbour):
    client = uuid.uuid4()
    alter(
        "CREATE TABLE clients (id uuid PRIMARY KEY)",
        f"INSERT INTO clients VALUES ('{client}')",
        "ALTER TABLE campaigns DROP COLUMN IF EXISTS client_id, ADD COLUMN client_id uuid REFERENCES clients",
        f"UPDATE campaigns SET client_id = '{client}'",
    )
    add_columns("client_id uuid REFERENCES clients")

    place(harbour)

    assert values("client_id") == (client,)


@pytest.mark.parametrize(
    "definition",
    [
        "source text CHECK (source IN ('inbound', 'web'))",
        "source a_source",
        "source varchar(4)",
        "source text GENERATED ALWAYS AS (direction) STORED",
        "source integer",
        "agent_mapping_id text",
        "agent_mapping_id uuid REFERENCES people",
        "campaign_id uuid REFERENCES people DEFERRABLE INITIALLY DEFERRED",
        "agent_id uuid",
        "agent_id uuid REFERENCES people",
        "client_id uuid REFERENCES people",
    ],
)
def test_a_column_that_cannot_hold_the_value_is_left_out_and_the_others_are_filled(harbour, caplog, definition):
    alter("CREATE TYPE a_source AS ENUM ('inbound', 'web')", "CREATE TABLE people (id uuid PRIMARY KEY)")
    name = definition.split()[0]
    other = "source" if name == "campaign_id" else "campaign_id"
    add_columns(definition, f"{other} {'text' if other == 'source' else 'uuid'}")

    place(harbour)

    assert list(additional_columns().values_of_all) == [other]
    assert values(other) == ("batch" if other == "source" else harbour.campaign.pk,)
    assert "additional columns" not in caplog.text


def test_an_enum_with_the_value_is_filled(harbour):
    alter("CREATE TYPE a_source AS ENUM ('inbound', 'batch')")
    add_columns("source a_source")

    place(harbour)

    assert values("source::text") == ("batch",)


@pytest.mark.parametrize(
    "refusal",
    [
        "ALTER TABLE calls ADD CHECK (source <> 'batch' OR direction <> 'outbound')",
        "ALTER TABLE calls DROP COLUMN source",
        "ALTER TABLE calls ALTER COLUMN source TYPE integer USING NULL",
        "ALTER TABLE calls ALTER COLUMN source TYPE varchar(2)",
    ],
)
def test_a_placed_call_is_recorded_although_the_database_refuses_the_values(harbour, caplog, refusal):
    add_columns("source text")
    assert list(additional_columns().values_of_all) == ["source"]
    alter(refusal)

    batch = place(harbour)

    assert Call.objects.get().contact == batch.contacts.get()
    assert batch.contacts.get().call_id == Call.objects.get().pk
    assert "the table calls refuses a value for its additional columns" in caplog.text


def test_a_column_that_needs_a_value_is_filled_although_another_one_is_refused(harbour):
    add_columns("source text", "campaign_id uuid NOT NULL")
    alter(
        "ALTER TABLE calls ADD COLUMN cost int", "ALTER TABLE calls ADD CHECK (source <> 'batch' OR cost IS NOT NULL)"
    )

    place(harbour)

    assert values("campaign_id", "source") == (harbour.campaign.pk, None)


def test_a_deferred_constraint_that_refuses_the_values_is_noticed_before_the_commit(harbour):
    add_columns("campaign_id uuid")
    additional_columns()
    alter(
        "CREATE TABLE people (id uuid PRIMARY KEY)",
        "ALTER TABLE calls ADD FOREIGN KEY (campaign_id) REFERENCES people DEFERRABLE INITIALLY DEFERRED",
        "SET CONSTRAINTS ALL DEFERRED",
    )

    place(harbour)

    alter()
    assert values("campaign_id") == (None,)


def test_the_refusal_is_logged_once_and_the_columns_are_read_again(harbour, caplog):
    add_columns("source text", "campaign_id uuid")
    alter("ALTER TABLE calls ADD CONSTRAINT refuses CHECK (source <> 'batch' OR direction <> 'outbound')")
    place(harbour)
    place(harbour)
    Call.objects.all().delete()
    alter("ALTER TABLE calls DROP COLUMN source")

    place(harbour)

    assert values("campaign_id") == (harbour.campaign.pk,)
    assert caplog.text.count("additional columns") == 1


def test_a_call_that_is_stored_already_is_not_stored_twice(harbour):
    add_columns("source text")
    stored = Call.objects.create(agency=harbour.agency, ultravox_call_id="a-call")
    batch = harbour.batch(queued=1)

    assert Call.record_placed(claim_next_contact(batch), "a-call", caller_id=CALLER_ID) is True
    assert Call.objects.get().pk == stored.pk
    assert Call.objects.get().contact == batch.contacts.get()


@pytest.mark.not_adopted
def test_the_app_s_own_table_costs_no_additional_query(harbour):
    place(harbour)
    Call.objects.all().delete()
    contact = claim_next_contact(harbour.batch(queued=1))

    with CaptureQueriesContext(connection) as queries:
        Call.record_placed(contact, "a-call", caller_id=CALLER_ID)

    assert additional_columns().values_of_all == {}
    statements = [query["sql"].split()[0] for query in queries]
    # Timeouts, the batch, the call id, the call, the same call again, its contact and its events.
    assert [word for word in statements if word not in ("SAVEPOINT", "RELEASE")] == [
        *("SELECT", "SELECT", "SELECT", "INSERT", "SELECT", "UPDATE", "SELECT"),
    ]
