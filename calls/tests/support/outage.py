"""A database that cannot be reached."""

from contextlib import contextmanager

from django.db import connection

from calls.tests.support.factories import address, plain_connection

CLOSE_CONNECTIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"


@contextmanager
def database_away():
    """Close all connections to the test's database, the test's own included, and refuse new ones during the block."""
    name = address()["dbname"]
    connection.close()
    with plain_connection(dbname="postgres") as other:
        other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            other.execute(CLOSE_CONNECTIONS, [name])
            yield
        finally:
            other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
