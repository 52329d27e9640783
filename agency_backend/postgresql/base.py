"""
Django's PostgreSQL backend, with a connection pool that gets over a restart of the database at once, and times that are
always read.

The pool would throw away one dead connection at a time, with a growing pause after each, and so answer the first
requests after a restart or a failover with a timeout although the database is there.
"""

from datetime import datetime, tzinfo
from functools import cache
from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import BaseTzLoader, get_adapters_template
from psycopg import Connection, DataError, Error
from psycopg.adapt import AdaptersMap
from psycopg.types.datetime import TimestampLoader
from psycopg_pool import ConnectionPool


class Clamped:
    """Reads a time that Python has no word for as the last or the first moment that it knows."""

    def load(self, data: Any) -> datetime:
        try:
            time: datetime = super().load(data)  # type: ignore[misc]
        except DataError:
            text = bytes(data)
            early = text.startswith(b"-") or text.endswith(b"BC")
            return (datetime.min if early else datetime.max).replace(tzinfo=getattr(self, "timezone", None))
        return time


class ClampedTimestamp(Clamped, TimestampLoader):
    """What the database makes of a time when it is asked for its day."""


@cache
def adapters_with_clamped_times(zone: tzinfo) -> AdaptersMap:
    """Django's own adapters, and readers of times that take any."""

    class ClampedTime(Clamped, BaseTzLoader):  # type: ignore[misc]
        timezone = zone

    adapters = AdaptersMap(get_adapters_template(True, zone))
    adapters.register_loader("timestamptz", ClampedTime)
    adapters.register_loader("timestamp", ClampedTimestamp)
    return adapters


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        """
        With readers of times that take any.

        Other services may write ``infinity``, or a year before 1 or after 9999, and that keeps no row from being read.
        """
        return super().get_connection_params() | {"context": adapters_with_clamped_times(self.timezone)}

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
