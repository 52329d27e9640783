"""Many rows by plain SQL, for tests that read query plans."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
from django.db.backends.utils import CursorWrapper

TABLES = ("agencies", "campaigns", "agent_mappings", "call_batches", "campaign_contacts")


@contextmanager
def hundred_agencies() -> Iterator[CursorWrapper]:
    """
    Create 100 agencies, each with a campaign and an agent, and empty the tables afterwards.

    The triggers are off until ``RESET session_replication_role``: they are meant for statements about one batch.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("INSERT INTO agencies (name, slug) SELECT 'A', 'a' || n FROM generate_series(1, 100) n")
        cursor.execute("INSERT INTO campaigns (agency_id, name) SELECT id, 'C' FROM agencies")
        cursor.execute("INSERT INTO agent_mappings (agency_id, ultravox_agent_id) SELECT id, 'x' FROM agencies")
        yield cursor
        cursor.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")


def vacuum_tables(cursor: CursorWrapper) -> None:
    """Update the statistics and the visibility map of the tables."""
    for table in TABLES:
        cursor.execute(f"VACUUM (ANALYZE) {table}")
