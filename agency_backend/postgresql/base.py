"""
Django's PostgreSQL backend, with two additions.

After a restart or failover of the database, all dead connections of the pool are replaced at once. The pool itself
replaces one connection at a time with a growing pause between them, so the first requests would fail although the
database is up.

Times that Python cannot represent are clamped instead of failing the query.
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


class ClampingLoader:
    """Loads a time that Python cannot represent as its earliest or latest ``datetime``."""

    timezone: tzinfo | None = None

    def load(self, data: Any) -> datetime:
        try:
            time: datetime = super().load(data)  # type: ignore[misc]
        except DataError:
            text = bytes(data)
            early = text.startswith(b"-") or text.endswith(b"BC")
            return (datetime.min if early else datetime.max).replace(tzinfo=self.timezone)
        return time


class ClampingTimestampLoader(ClampingLoader, TimestampLoader):
    """For ``timestamp`` without time zone, which PostgreSQL returns for a time that it has truncated to a day."""


@cache
def clamping_adapters(zone: tzinfo) -> AdaptersMap:
    """Return Django's adapters with loaders that accept every PostgreSQL time."""

    class ClampingTzLoader(ClampingLoader, BaseTzLoader):  # type: ignore[misc]
        timezone = zone

    adapters = AdaptersMap(get_adapters_template(True, zone))
    adapters.register_loader("timestamptz", ClampingTzLoader)
    adapters.register_loader("timestamp", ClampingTimestampLoader)
    return adapters


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        """
        Add the clamping adapters.

        Another service may write ``infinity``, or a year before 1 or after 9999. Such rows must stay readable.
        """
        return super().get_connection_params() | {"context": clamping_adapters(self.timezone)}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        """Return a working connection. If the pool returns a dead one, first replace all of its dead connections."""
        connection: Connection = super().get_new_connection(conn_params)
        if self.pool:
            try:
                ConnectionPool.check_connection(connection)
            except Error:
                self.pool.putconn(connection)
                self.pool.check()
                connection = super().get_new_connection(conn_params)
        return connection
