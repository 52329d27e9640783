"""What is known of one table, and how a person reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from calls.database.adoption.steps import Step


@dataclass
class Table:
    """What was found of one table. ``rows`` is the database's own estimate; None is a table that is not there."""

    name: str
    rows: int | None = None
    additions: list[Step] = field(default_factory=list)
    obstacles: list[tuple[str, str]] = field(default_factory=list)
    """What is in the way, and what to do about it."""
    notes: list[str] = field(default_factory=list)
    """What is left alone."""


def report(tables: list[Table]) -> str:
    """What a person reads: table by table what is there, what will be added, what is in the way."""
    lines = []
    for table in tables:
        there = "is not there" if table.rows is None else f"is there, about {table.rows} rows"
        lines.append(f"{table.name} {there}")
        lines += [f"    in the way: {what}\n        {remedy}" for what, remedy in table.obstacles]
        lines += [f"    to be added: {step.what}" for step in table.additions]
        lines += [f"    left alone: {note}" for note in table.notes]
    return "\n".join(lines)
