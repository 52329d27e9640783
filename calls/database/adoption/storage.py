"""Storage parameters of the tables."""

from __future__ import annotations

from calls.database.adoption.catalog import fetch_column
from calls.database.adoption.steps import Step

STORAGE = {
    # Leaves more than half of each page free for the new versions of its rows, which are longer. A cancel then writes
    # each skipped contact to the same page and updates no index. That is several times as fast, in twice the space
    # (benchmarks/README.md).
    "campaign_contacts": {"fillfactor": "45"},
}


def missing_storage_parameters(table: str) -> list[Step]:
    """Return the steps that set parameters which the table does not have yet. They affect only new pages."""
    parameters = STORAGE.get(table, {})
    options = f"pg_options_to_table((SELECT reloptions FROM pg_class WHERE oid = to_regclass('{table}')))"
    existing = fetch_column(f"SELECT option_name FROM {options}") if parameters else []
    return [
        Step(
            table,
            f"storage parameter {name} = {value}, for new pages",
            f"ALTER TABLE {table} SET ({name} = {value})",
            f"ALTER TABLE {table} RESET ({name})",
            f"SELECT option_value FROM {options} WHERE option_name = '{name}'",
        )
        for name, value in parameters.items()
        if name not in existing
    ]
