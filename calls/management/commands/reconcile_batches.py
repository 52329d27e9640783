"""Find batches whose counters say otherwise than their contacts do, and mend them."""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from calls.exceptions import BatchNotFound, CallsError
from calls.models import CallBatch, Discrepancy


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Compares the counters of every batch with a fresh count of its contacts, and looks for contacts left to dial "
        "in batches that have ended. One batch after another, each under its lock. One line for each that is wrong. "
        "Exits with 0 when nothing is wrong or everything was mended, else 1."
    )

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--fix", action="store_true", help="set the counters right, and skip those contacts")

    def handle(self, *, fix: bool, **options: Any) -> None:
        wrong = False
        for batch in CallBatch.objects.order_by("pk").only("pk"):
            try:
                found = batch.reconcile(fix=fix)
            except BatchNotFound:
                continue
            except CallsError as refusal:
                self.stdout.write(f"{batch.pk}: not compared: {refusal} ({refusal.code})")
                wrong = True
                continue
            if found:
                self.stdout.write(as_line(found, fixed=fix))
                wrong = wrong or not fix
        if wrong:
            sys.exit(1)


def as_line(found: Discrepancy, *, fixed: bool) -> str:
    parts = [f"{name} said {said}, counted {counted}" for name, (said, counted) in found.counters.items()]
    if found.waiting:
        parts.append(f"contacts left to dial: {found.waiting}")
    return f"{found.batch_id} ({found.status}): {'; '.join(parts)}{'. Mended.' if fixed else ''}"
