"""What the commands have in common that do something to batches: cancel, pause, resume, export."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, ClassVar
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.audit import Actor, Door
from calls.database.transactions import bounded, failing_as
from calls.exceptions import BatchReadFailed, CallsError
from calls.models import Agency, CallBatch, CancelResult, PauseResult
from calls.models.querysets import CallBatchQuerySet
from calls.parsing import parse_uuid

Outcome = CancelResult | PauseResult | CallsError


def batch_id(value: str) -> UUID:
    try:
        return parse_uuid(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a batch id of 8-4-4-4-12 hexadecimal digits") from None


def batches_of(slug: str | None) -> CallBatchQuerySet:
    """
    The batches of the agency with this slug; all there are without one.

    :raises CommandError: there is no such agency, or the database cannot say.
    """
    if slug is None:
        return CallBatch.objects.all()
    try:
        with failing_as(BatchReadFailed), bounded():
            agency_id = Agency.objects.filter(slug=slug).values_list("pk", flat=True).first()
    except UnicodeEncodeError:
        agency_id = None
    except CallsError as refusal:
        raise CommandError(f"{refusal} ({refusal.code}): the database cannot be reached, nothing is done") from None
    if agency_id is None:
        raise CommandError(f"there is no agency with the slug {slug!r}", returncode=2)
    return CallBatch.objects.for_agency(agency_id)


def nobody_reads() -> None:
    """From here on, what is written to the standard output goes nowhere, and fails no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class BatchCommand(BaseCommand):
    """
    ``VERB_batch BATCH_ID [BATCH_ID …] [--agency SLUG] [--dry-run] [--json]``

    Each batch in its own transaction, and a line for each. Exits with 0 when all is done, 1 when any batch was refused
    or is unknown (the others are still done), 2 for bad usage (nothing is done).
    """

    # In an incident nothing is in the way: a wrong setting of the API does not keep a batch from being stopped.
    requires_system_checks = []
    verb: ClassVar[str]
    done: ClassVar[str]

    def as_text(self, result: Any, *, dry_run: bool) -> str:
        """What it did, or would do, in a sentence or two."""
        raise NotImplementedError

    def as_data(self, result: Any) -> dict[str, Any]:
        """The same for a program."""
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch_ids", metavar="BATCH_ID", nargs="+", type=batch_id)
        parser.add_argument("--agency", metavar="SLUG", help="find only batches of this agency")
        parser.add_argument("--dry-run", action="store_true", help="say what would happen, and write nothing")
        parser.add_argument("--json", action="store_true", help="one JSON object for each batch, a line each")

    def handle(self, *, batch_ids: list[UUID], agency: str | None, dry_run: bool, **options: Any) -> None:
        batches = batches_of(agency)
        say = self._as_json if options["json"] else self._as_line
        refused = False
        # An id given twice is one batch, not a second cancel that is refused.
        for pk in dict.fromkeys(batch_ids):
            outcome: Outcome
            try:
                batch = batches.find(pk)
                if dry_run:
                    outcome = getattr(batch, f"preview_{self.verb}")()
                else:
                    outcome = getattr(batch, self.verb)(actor=Actor.os_user(), via=Door.COMMAND)
            except CallsError as refusal:
                outcome, refused = refusal, True
            self._say(say(pk, outcome, dry_run))
        if refused:
            sys.exit(1)

    def _say(self, text: str) -> None:
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except OSError:
            # Nobody reads it any more, or the disk is full: the other batches are dealt with all the same.
            nobody_reads()

    def _as_line(self, pk: UUID, outcome: Outcome, dry_run: bool) -> str:
        if isinstance(outcome, CallsError):
            return f"{pk}: not {self.done}: {outcome} ({outcome.code})"
        return f"{pk}: {'would be ' if dry_run else ''}{self.done}. {self.as_text(outcome, dry_run=dry_run)}"

    def _as_json(self, pk: UUID, outcome: Outcome, dry_run: bool) -> str:
        failed = isinstance(outcome, CallsError)
        said: dict[str, Any] = {"batch_id": str(pk), f"would_{self.verb}" if dry_run else self.done: not failed}
        if isinstance(outcome, CallsError):
            said |= {"error": outcome.text, "code": outcome.code}
        else:
            said |= self.as_data(outcome)
        return json.dumps(said)
