"""
Django's PostgreSQL backend, with a connection pool that gets over a restart of the database at once.

The pool would throw away one dead connection at a time, with a growing pause after each, and so answer the first
requests after a restart or a failover with a timeout although the database is there.
"""

from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection, Error
from psycopg_pool import ConnectionPool


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        """A connection that answers. Where the pool gives a dead one, it has replaced all that are dead."""
        connection: Connection = super().get_new_connection(conn_params)
        if self.pool:
            try:
                ConnectionPool.check_connection(connection)
            except Error:
                self.pool.putconn(connection)
                self.pool.check()
                connection = super().get_new_connection(conn_params)
        return connection
