"""The result of a survey, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass, field

from calls.database.adoption.steps import Step

DATABASE = "database"


@dataclass(frozen=True)
class Obstacle:
    """A problem that prevents adoption, and how to solve it."""

    problem: str
    remedy: str


@dataclass
class Report:
    """What a survey found out about one table, or about the database as a whole."""

    name: str
    rows: int | None = None
    """PostgreSQL's estimate. None if the table does not exist."""
    missing_steps: list[Step] = field(default_factory=list)
    """The steps that add what is missing."""
    obstacles: list[Obstacle] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the operator should know. Adoption does not change it."""

    def add_obstacle(self, problem: str, remedy: str) -> None:
        self.obstacles.append(Obstacle(problem, remedy))


def format_reports(reports: list[Report]) -> str:
    """Return the reports as text: for each table its obstacles, what will be added, and notes."""
    lines = []
    for report in reports:
        if report.name == DATABASE:
            lines.append(report.name)
        elif report.rows is None:
            lines.append(f"{report.name}: does not exist")
        else:
            lines.append(f"{report.name}: about {report.rows} rows")
        lines += [f"    obstacle: {each.problem}\n        {each.remedy}" for each in report.obstacles]
        lines += [f"    will be added: {step.description}" for step in report.missing_steps]
        lines += [f"    note: {note}" for note in report.notes]
    return "\n".join(lines)
