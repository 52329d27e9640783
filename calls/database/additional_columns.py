"""Columns of ``calls`` that other services have added and whose values the app knows, such as ``campaign_id``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from django.db import DatabaseError, OperationalError, connection, models, transaction

from calls.database.adoption.catalog import Column, checks_refusing, columns_of, fetch_column

logger = logging.getLogger(__name__)

# The value of ``source`` for a call that was placed for a batch.
SOURCE = "batch"

# The SQL of the other values.
_AGENT = "(SELECT agent_mapping_id FROM call_batches WHERE id = %(batch)s)"
_CAMPAIGN = "(SELECT campaign_id FROM call_batches WHERE id = %(batch)s)"
_CLIENT = "(SELECT client_id FROM campaigns WHERE id = (SELECT campaign_id FROM call_batches WHERE id = %(batch)s))"


def insert_with_additional_columns(call: models.Model, *, batch_id: UUID) -> bool:
    """
    Insert a call together with the additional columns, unless its id at the provider is stored already.

    If the database refuses the values, only the columns that must have one are filled. Call this inside a transaction.

    :returns: False if there are no such columns, or if the database refuses their values. Nothing was inserted
        then, and the caller inserts the call without them.
    """
    try:
        additional = additional_columns()
    except DatabaseError as error:
        _log_or_raise(error)
        return False
    attempts = (additional.values_of_all, additional.values_of_required)
    return any(_try_to_insert(call, batch_id, values) for values in attempts if values)


def _try_to_insert(call: models.Model, batch_id: UUID, values: dict[str, str]) -> bool:
    try:
        _insert(call, batch_id, values)
    except DatabaseError as error:
        # The columns may have changed since they were read.
        additional_columns.cache_clear()
        _log_or_raise(error)
        return False
    return True


def _log_or_raise(error: DatabaseError) -> None:
    """Log what the database refuses. Raise a deadlock or timeout, which says nothing about the columns."""
    if isinstance(error, OperationalError):
        raise error
    _warn_once(type(error).__name__, str(getattr(error.__cause__, "sqlstate", None)))


def _insert(call: models.Model, batch_id: UUID, additional: dict[str, str]) -> None:
    own = {
        str(field.column): field.get_db_prep_save(field.pre_save(call, add=True), connection)
        for field in call._meta.concrete_fields
    }
    columns = ", ".join([*own, *additional])
    values = ", ".join([*(f"%({column})s" for column in own), *additional.values()])
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO calls ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",  # noqa: S608 - constant names
            own | {"batch": batch_id},
        )
        # A deferred foreign key would otherwise refuse a value when the whole transaction is committed.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


@dataclass(frozen=True)
class AdditionalColumns:
    """The additional columns that the app can fill, each with the SQL of its value. ``%(batch)s`` is the batch."""

    values_of_all: dict[str, str]
    values_of_required: dict[str, str]
    """Those that do not allow NULL and have no default."""


@cache
@transaction.atomic
def additional_columns() -> AdditionalColumns:
    """
    Return the additional columns that the app can fill.

    The result is cached until the database refuses a value. A column of another type is left out, and so is one with a
    foreign key to a table that the value does not come from. ``agent_id`` may be the id of anything, so it needs a
    foreign key.
    """
    columns, agents, campaigns = columns_of("calls"), {"agent_mappings"}, {"campaigns"}
    found = {}
    if _is_id(columns.get("agent_mapping_id")) and _tables_referenced_by("calls", "agent_mapping_id") <= agents:
        found["agent_mapping_id"] = _AGENT
    if _is_id(columns.get("agent_id")) and _tables_referenced_by("calls", "agent_id") == agents:
        found["agent_id"] = _AGENT
    if _is_id(columns.get("campaign_id")) and _tables_referenced_by("calls", "campaign_id") <= campaigns:
        found["campaign_id"] = _CAMPAIGN
    if (
        _is_id(columns.get("client_id"))
        and _is_id(columns_of("campaigns").get("client_id"))
        and _tables_referenced_by("calls", "client_id") <= _tables_referenced_by("campaigns", "client_id")
    ):
        found["client_id"] = _CLIENT
    if _can_be_source(columns.get("source")):
        found["source"] = f"'{SOURCE}'"
    required = {
        name: value for name, value in found.items() if columns[name].not_null and not columns[name].has_default
    }
    return AdditionalColumns(found, required)


def _is_id(column: Column | None) -> bool:
    return column is not None and column.type == "uuid" and not column.is_generated


def _can_be_source(column: Column | None) -> bool:
    if column is None or column.is_generated or _tables_referenced_by("calls", "source"):
        return False
    if column.enum_labels is not None:
        return SOURCE in column.enum_labels
    has_room = column.max_length is None or column.max_length >= len(SOURCE)
    is_text = column.type in ("text", "character varying") and has_room
    return is_text and not checks_refusing("calls", "source", column.type, [SOURCE])


def _tables_referenced_by(table: str, column: str) -> set[str]:
    """Return the tables that the foreign keys of a column refer to."""
    return set(
        fetch_column(
            "SELECT confrelid::regclass::text FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid"
            " AND attnum = ANY (conkey) WHERE contype = 'f' AND conrelid = %s::regclass AND attname = %s",
            *(table, column),
        )
    )


@cache
def _warn_once(error: str, sqlstate: str) -> None:
    logger.warning("the table calls refuses a value for its additional columns: %s %s", error, sqlstate)
