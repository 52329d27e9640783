"""Parts of SQL statements that are written by hand."""

from django.db import models


def column_names(model: type[models.Model]) -> list[str]:
    """Return the columns of a model, for a SELECT that leaves out those of other services."""
    columns = (field.get_attname_column()[1] for field in model._meta.concrete_fields)
    return [column for column in columns if column is not None]


# A UUID of version 7, which is ordered by time. PostgreSQL has a function for it only since version 18.
UUID7 = (
    "(lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7'"
    " || right(replace(gen_random_uuid()::text, '-', ''), 19))::uuid"
)


def literals(*statuses: str) -> str:
    """
    Return statuses as a list of SQL literals, for ``status IN …``.

    As parameters they would have the type text, which PostgreSQL does not compare with a native enum.
    """
    return "(" + ", ".join(f"'{status}'" for status in statuses) + ")"
