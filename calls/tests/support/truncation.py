"""Empty the tables after a test that commits."""

from functools import cache

from django.db import connection

# The rows of these tables come from migrations.
KEPT = {"auth_group", "auth_group_permissions", "auth_permission", "django_content_type", "django_migrations"}


def truncate_tables():
    """Truncate every table of a managed model that has rows, except for those in ``KEPT``."""
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in _tables()))
        filled = [table for (table,) in cursor.fetchall()]
        if filled:
            cursor.execute(f"TRUNCATE {', '.join(filled)} CASCADE")


@cache
def _tables():
    return sorted(set(connection.introspection.django_table_names(only_existing=True)) - KEPT)
