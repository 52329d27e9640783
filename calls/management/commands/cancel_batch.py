"""Cancel batches from a terminal, in an incident."""

import argparse
import json
import os
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
        "unknown (the others are still cancelled), 2 for bad usage (nothing is done)."
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
        as_text = as_json if options["json"] else as_line
        refused = False
        # An id given twice is one batch, not a second cancel that is refused.
        for pk in dict.fromkeys(batch_ids):
            outcome: CancelResult | CallsError
            try:
                batch = batches.find(pk)
                outcome = batch.preview_cancel() if dry_run else batch.cancel(actor=Actor.os_user(), via=Door.COMMAND)
            except CallsError as refusal:
                outcome, refused = refusal, True
            self._say(as_text(pk, outcome, dry_run))
        if refused:
            sys.exit(1)

    def _say(self, text: str) -> None:
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except OSError:
            # Nobody reads it any more, or the disk is full: the other batches are cancelled all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _agency_id(self, slug: str) -> UUID:
        try:
            with as_update_failed(), bounded():
                agency_id = Agency.objects.filter(slug=slug).values_list("pk", flat=True).first()
        except UnicodeEncodeError:
            agency_id = None
        except CallsError as refusal:
            raise CommandError(f"{refusal} ({refusal.code}): the database cannot be reached, nothing is done") from None
        if agency_id is None:
            raise CommandError(f"there is no agency with the slug {slug!r}", returncode=2)
        return agency_id


def as_line(pk: UUID, outcome: CancelResult | CallsError, dry_run: bool) -> str:
    if isinstance(outcome, CallsError):
        return f"{pk}: not cancelled: {outcome} ({outcome.code})"
    done, skipped = ("would be cancelled", "Contacts to skip") if dry_run else ("cancelled", "Contacts skipped")
    return (
        f"{pk}: {done}. {skipped}: {outcome.contacts_skipped}. "
        f"Calls in progress, which will finish: {outcome.in_progress}."
    )


def as_json(pk: UUID, outcome: CancelResult | CallsError, dry_run: bool) -> str:
    cancelled = not isinstance(outcome, CallsError)
    said: dict[str, Any] = {"batch_id": str(pk), "would_cancel" if dry_run else "cancelled": cancelled}
    if isinstance(outcome, CallsError):
        said |= {"error": outcome.text, "code": outcome.code}
    else:
        said |= {"contacts_skipped": outcome.contacts_skipped, "in_progress": outcome.in_progress}
    return json.dumps(said)
