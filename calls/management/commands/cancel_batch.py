"""Cancel batches from a terminal, in an incident."""

import argparse
import json
import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.actors import Actor, Door
from calls.db import as_update_failed, bounded
from calls.exceptions import CallsError
from calls.identifiers import parse_uuid
from calls.models import Agency, CallBatch, CancelResult


def batch_id(value: str) -> UUID:
    try:
        return parse_uuid(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a batch id of 8-4-4-4-12 hexadecimal digits") from None


class Command(BaseCommand):
    # In an incident nothing is in the way: a wrong setting of the API does not keep a batch from being stopped.
    requires_system_checks = []
    help = (
        "Cancels batches: skips every contact not yet called, lets calls in progress end, starts no new one. "
        "Each batch in its own transaction. Exits with 0 when all are cancelled, 1 when any was refused or is "
        "unknown (the others are cancelled still), 2 for bad usage (nothing is done)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch_ids", metavar="BATCH_ID", nargs="+", type=batch_id)
        parser.add_argument("--agency", metavar="SLUG", help="find only batches of this agency")
        parser.add_argument("--dry-run", action="store_true", help="say what would happen, and write nothing")
        parser.add_argument("--json", action="store_true", help="one JSON object for each batch, a line each")

    def handle(self, *, batch_ids: list[UUID], agency: str | None, dry_run: bool, **options: Any) -> None:
        batches = CallBatch.objects.all()
        if agency is not None:
            batches = batches.for_agency(self._agency_id(agency))
        say = self._say_json if options["json"] else self._say_line
        refused = False
        # An id given twice is one batch, not a second cancel that is refused.
        for pk in dict.fromkeys(batch_ids):
            try:
                batch = batches.find(pk)
                result = batch.preview_cancel() if dry_run else batch.cancel(actor=Actor.os_user(), via=Door.COMMAND)
            except CallsError as refusal:
                refused = True
                say(pk, refusal, dry_run)
            else:
                say(pk, result, dry_run)
        if refused:
            sys.exit(1)

    def _agency_id(self, slug: str) -> UUID:
        try:
            with as_update_failed(), bounded():
                agency_id = Agency.objects.filter(slug=slug).values_list("pk", flat=True).first()
        except CallsError as refusal:
            raise CommandError(f"{refusal} ({refusal.code}): the database cannot be reached, nothing is done") from None
        if agency_id is None:
            raise CommandError(f"there is no agency with the slug {slug!r}", returncode=2)
        return agency_id

    def _say_line(self, pk: UUID, outcome: CancelResult | CallsError, dry_run: bool) -> None:
        if isinstance(outcome, CallsError):
            self.stdout.write(f"{pk}: not cancelled: {outcome} ({outcome.code})")
        else:
            self.stdout.write(
                f"{pk}: {'would be cancelled' if dry_run else 'cancelled'}: {outcome.contacts_skipped} contacts "
                f"skipped, {outcome.in_progress} calls in progress go on until they end"
            )

    def _say_json(self, pk: UUID, outcome: CancelResult | CallsError, dry_run: bool) -> None:
        line: dict[str, Any] = {"success": True, "batch_id": str(pk), "dry_run": dry_run}
        if isinstance(outcome, CallsError):
            line |= {"success": False, "error": outcome.text, "code": outcome.code}
        else:
            line |= {
                "status": outcome.status,
                "contacts_skipped": outcome.contacts_skipped,
                "in_progress": outcome.in_progress,
            }
        self.stdout.write(json.dumps(line))
