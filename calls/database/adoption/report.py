"""The result of a survey, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass, field

from calls.database.adoption.steps import STEP_LOCK_TIMEOUT, Step
from calls.database.adoption.tables import NOT_NEEDED_TO_CANCEL

DATABASE = "database"


@dataclass(frozen=True)
class Problem:
    """A problem of a table, advice for the operator, and the SQL that solves it, if there is any."""

    problem: str
    advice: str
    sql: str

    @property
    def remedy(self) -> str:
        return f"{self.sql} {self.advice}".strip()


@dataclass
class Report:
    """What a survey found out about one table, or about the database as a whole."""

    name: str
    rows: int | None = None
    """PostgreSQL's estimate, or -1 before it has one. None if the table does not exist."""
    missing_steps: list[Step] = field(default_factory=list)
    """The steps that add what is missing."""
    obstacles: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    """Problems that do not affect a cancel. They do not prevent adoption."""
    notes: list[str] = field(default_factory=list)
    """What the operator should know. Adoption does not change it."""

    def add_problem(self, problem: str, advice: str = "", *, sql: str = "") -> None:
        """Add an obstacle, or a warning if the table is not needed to cancel a batch."""
        problems = self.warnings if self.name in NOT_NEEDED_TO_CANCEL else self.obstacles
        problems.append(Problem(problem, advice, sql))

    def add_obstacle(self, problem: str, advice: str = "", *, sql: str = "") -> None:
        """Add an obstacle, for any table."""
        self.obstacles.append(Problem(problem, advice, sql))

    def add_warning(self, problem: str, *, sql: str) -> None:
        """Add a warning, for any table."""
        self.warnings.append(Problem(problem, "", sql))


def format_script(reports: list[Report]) -> str:
    """Return the remedies of all obstacles and warnings as one SQL script, to be reviewed and run."""
    parts = []
    for report in reports:
        for each in (*report.obstacles, *report.warnings):
            # Each line needs its own comment sign: a problem may quote a value of a row.
            comments = [*f"{report.name}: {each.problem}.".splitlines(), *each.advice.splitlines()]
            parts.append("\n".join([*(f"-- {line}" for line in comments), *each.sql.splitlines()]))
    if not parts:
        return "-- No obstacles or warnings."
    # While a statement waits for a lock, every other service would wait behind it.
    return "\n\n".join(
        [f"-- Run again what fails with a lock timeout.\nSET lock_timeout = '{STEP_LOCK_TIMEOUT}';", *parts]
    )


def format_reports(reports: list[Report]) -> str:
    """Return the reports as text: for each table its obstacles, what will be added, and notes."""
    lines = []
    for report in reports:
        if report.name == DATABASE:
            lines.append(report.name)
        elif report.rows is None:
            lines.append(f"{report.name}: does not exist")
        elif report.rows < 0:
            lines.append(f"{report.name}: number of rows unknown, because it was never analyzed")
        else:
            lines.append(f"{report.name}: about {report.rows} rows")
        for kind, problems in (("obstacle", report.obstacles), ("warning", report.warnings)):
            for each in problems:
                lines += [f"    {kind}: {each.problem}", *(f"        {line}" for line in each.remedy.splitlines())]
        lines += [f"    will be added: {step.description}" for step in report.missing_steps]
        lines += [f"    note: {note}" for note in report.notes]
    return "\n".join(lines)
