"""Find batches whose counters do not match their contacts, and correct them."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from calls.exceptions import BatchNotFound, DatabaseFailed
from calls.management.database_errors import can_connect, database_required
from calls.models import CallBatch
from calls.models.reconciliation import Discrepancy, reconcile


class Command(BaseCommand):
    requires_system_checks = []
    help = (
        "Compares the counters of every batch with a fresh count of its contacts, and finds dialable contacts in "
        "batches that have ended. Locks one batch at a time. Prints one line for each wrong batch. Exits with 0 when "
        "every batch is correct or was corrected, else 1."
    )

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument(
            "--fix", action="store_true", help="correct the counters, and skip what is left to dial in ended batches"
        )

    @database_required()
    def handle(self, *, fix: bool, **options: Any) -> None:
        wrong = False
        for batch in CallBatch.objects.order_by("pk").only("pk"):
            try:
                discrepancy = reconcile(batch.pk, fix=fix)
            except BatchNotFound:
                continue
            except DatabaseFailed as failed:
                self.stdout.write(f"{batch.pk}: not compared: {failed} ({failed.code})")
                if not can_connect():
                    raise CommandError("the database is lost: the other batches are not compared") from None
                wrong = True
                continue
            if discrepancy:
                self.stdout.write(as_line(discrepancy, fixed=fix))
                wrong = wrong or not fix
        if wrong:
            sys.exit(1)


def as_line(discrepancy: Discrepancy, *, fixed: bool) -> str:
    parts = [f"{name} is {stored}, counted {counted}" for name, (stored, counted) in discrepancy.counters.items()]
    if discrepancy.left_behind:
        parts.append(f"contacts left to dial: {discrepancy.left_behind}")
    line = f"{discrepancy.batch_id} ({discrepancy.status}): {'; '.join(parts)}"
    return f"{line}. Corrected." if fixed else line
