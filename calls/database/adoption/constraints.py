"""CHECK constraints of an adopted table."""

from __future__ import annotations

from typing import Any

from django.db import models

from calls.database.adoption.catalog import Column, is_validated
from calls.database.adoption.definitions import add_constraint_sql
from calls.database.adoption.report import Report
from calls.database.adoption.steps import Step


def survey_constraints(report: Report, model: type[models.Model], columns: dict[str, Column]) -> None:
    """
    Add to the report which of the model's CHECK constraints are missing.

    Each takes two steps, so that writers do not wait while existing rows are read. An enum needs no constraint.
    """
    for constraint in model._meta.constraints:
        if not isinstance(constraint, models.CheckConstraint):
            continue
        condition: Any = constraint.condition
        ((lookup, _),) = condition.children
        column = columns.get(lookup.split("__")[0])
        if column and column.enum_labels:
            continue
        validated = is_validated(report.name, constraint.name)
        drop = f"ALTER TABLE {report.name} DROP CONSTRAINT IF EXISTS {constraint.name}"
        probe = (
            f"SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint"
            f" WHERE conrelid = to_regclass('{report.name}') AND conname = '{constraint.name}'"
        )
        if validated is None:
            add = f"{add_constraint_sql(model, constraint)} NOT VALID"
            report.missing_steps.append(
                Step(report.name, f"constraint {constraint.name}, for new rows", add, drop, probe)
            )
        if not validated:
            validate = f"ALTER TABLE {report.name} VALIDATE CONSTRAINT {constraint.name}"
            report.missing_steps.append(
                Step(report.name, f"constraint {constraint.name}, for all rows", validate, drop, probe)
            )
