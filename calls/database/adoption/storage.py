"""How the rows of a table are laid out on its pages."""

from __future__ import annotations

from calls.database.adoption.catalog import names
from calls.database.adoption.steps import Step

STORAGE = {
    # More than half of each page is left for the second version of its rows, which is the longer one. A cancel then
    # writes beside each contact that it skips, and no index has to learn of it: several times as fast, in twice the
    # space (benchmarks/README.md).
    "campaign_contacts": {"fillfactor": "45"},
}


def storage_to_add(table: str) -> list[Step]:
    """The parameters of a table that nobody has set. They hold for pages that are filled from then on."""
    parameters = STORAGE.get(table, {})
    options = f"pg_options_to_table((SELECT reloptions FROM pg_class WHERE oid = to_regclass('{table}')))"
    there = names(f"SELECT option_name FROM {options}") if parameters else []
    return [
        Step(
            table,
            f"storage parameter {name} = {value}, for new pages",
            f"ALTER TABLE {table} SET ({name} = {value})",
            f"ALTER TABLE {table} RESET ({name})",
            f"SELECT option_value FROM {options} WHERE option_name = '{name}'",
        )
        for name, value in parameters.items()
        if name not in there
    ]
