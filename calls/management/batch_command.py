"""What the commands that change or export batches have in common."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.audit import Actor
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchReadFailed, CallsError, DatabaseFailed, FieldInvalid
from calls.inputs import parse_reason
from calls.management.database_errors import UNREACHABLE, DatabaseUnreachable, can_connect
from calls.models import Agency, CallBatch, CancelResult, PauseResult
from calls.models.querysets import CallBatchQuerySet
from calls.parsing import parse_uuid

Outcome = CancelResult | PauseResult | CallsError


def batch_id(value: str) -> UUID:
    try:
        return parse_uuid(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a batch id of 8-4-4-4-12 hexadecimal digits") from None


def reason(value: str) -> str | None:
    try:
        return parse_reason({"reason": value})
    except FieldInvalid as invalid:
        raise argparse.ArgumentTypeError(str(invalid)) from None


def add_reason_argument(parser: CommandParser) -> None:
    parser.add_argument("--reason", metavar="TEXT", type=reason, help="why, kept in the history")


def find_agency(slug: str) -> Agency:
    """
    Return the agency with this slug, with its other columns deferred.

    :raises CommandError: there is no such agency, or more than one.
    :raises BatchReadFailed: a database error or timeout.
    """
    try:
        with database_errors_as(BatchReadFailed), transaction_with_timeouts():
            found = list(Agency.objects.only("slug").filter(slug=slug)[:2])
    except UnicodeEncodeError:
        found = []
    if len(found) > 1:
        # An adopted table may have no unique index.
        raise CommandError(f"more than one agency has the slug {slug!r}", returncode=2)
    if not found:
        raise CommandError(f"there is no agency with the slug {slug!r}", returncode=2)
    return found[0]


def batches_of(slug: str | None) -> CallBatchQuerySet:
    """
    Return the batches of the agency with this slug, or all batches without a slug.

    :raises CommandError: there is no such agency.
    :raises BatchReadFailed: a database error or timeout.
    """
    return CallBatch.objects.all() if slug is None else CallBatch.objects.for_agency(find_agency(slug).pk)


def redirect_stdout_to_devnull() -> None:
    """Discard everything written to standard output from now on, so that further writes cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class BatchCommand(BaseCommand):
    """
    ``VERB_batch BATCH_ID [BATCH_ID …] [--agency SLUG] [--reason TEXT] [--dry-run] [--json]``

    ``--reason`` exists only if ``takes_reason`` is true. Each batch has its own transaction and its own line of output.
    Exits with 0 when every batch succeeded, 1 when any batch was refused or is unknown (the others are still done), 2
    for bad usage (nothing is done).
    """

    # A wrong setting of the API must not keep an operator from stopping a batch.
    requires_system_checks = []
    verb: ClassVar[str]
    done: ClassVar[str]
    takes_reason: ClassVar[bool] = False
    # How many batch ids are needed, as argparse's nargs.
    batch_ids_needed: ClassVar[str] = "+"

    def perform(self, batch: CallBatch, actor: Actor, reason: str | None) -> CancelResult | PauseResult:
        """Call the batch's method. May raise :class:`CallsError`."""
        raise NotImplementedError

    def preview(self, batch: CallBatch) -> CancelResult | PauseResult:
        """Call the batch's preview method. May raise :class:`CallsError`."""
        raise NotImplementedError

    def as_text(self, result: Any, *, dry_run: bool) -> str:
        """Return what was done, or would be done, in a sentence or two."""
        raise NotImplementedError

    def as_data(self, result: Any) -> dict[str, Any]:
        """Return what ``--json`` adds to the line."""
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch_ids", metavar="BATCH_ID", nargs=self.batch_ids_needed, type=batch_id)
        parser.add_argument("--agency", metavar="SLUG", help="find only batches of this agency")
        if self.takes_reason:
            add_reason_argument(parser)
        parser.add_argument("--dry-run", action="store_true", help="print what would happen, and write nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object per batch, one per line")

    def handle(
        self, *, batch_ids: list[UUID], agency: str | None, dry_run: bool, reason: str | None = None, **options: Any
    ) -> None:
        # An id that is given twice is one batch, not a second cancel that is refused.
        pks = list(dict.fromkeys(batch_ids))
        as_line = self._as_json if options["json"] else self._as_text_line
        try:
            if not can_connect():
                raise DatabaseUnreachable
            batches = batches_of(agency)
        except BatchReadFailed as failed:
            if options["json"]:
                for pk in pks:
                    self._print(as_line(pk, failed, dry_run))
            raise CommandError(UNREACHABLE) from None
        refused = False
        for pk, outcome in self.outcomes(batches, pks, dry_run=dry_run, reason=reason):
            refused = refused or isinstance(outcome, CallsError)
            self._print(as_line(pk, outcome, dry_run))
        if refused:
            sys.exit(1)

    def outcomes(
        self, batches: CallBatchQuerySet, pks: list[UUID], *, dry_run: bool, reason: str | None
    ) -> Iterator[tuple[UUID, Outcome]]:
        """Change or preview each batch. After a lost connection, fail the remaining ones without connecting."""
        unreachable = False
        for pk in pks:
            outcome: Outcome
            try:
                if unreachable:
                    raise DatabaseUnreachable
                batch = batches.find(pk)
                outcome = self.preview(batch) if dry_run else self.perform(batch, Actor.os_user(), reason)
            except CallsError as refusal:
                outcome = refusal
            yield pk, outcome
            unreachable = unreachable or (isinstance(outcome, DatabaseFailed) and not can_connect())

    def _print(self, line: str) -> None:
        try:
            self.stdout.write(line)
            self.stdout.flush()
        except OSError:
            # The reader has gone or the disk is full. The remaining batches must still be done.
            redirect_stdout_to_devnull()

    def _as_text_line(self, pk: UUID, outcome: Outcome, dry_run: bool) -> str:
        if isinstance(outcome, CallsError):
            return f"{pk}: not {self.done}: {outcome} ({outcome.code})"
        return f"{pk}: {'would be ' if dry_run else ''}{self.done}. {self.as_text(outcome, dry_run=dry_run)}"

    def _as_json(self, pk: UUID, outcome: Outcome, dry_run: bool) -> str:
        failed = isinstance(outcome, CallsError)
        data: dict[str, Any] = {"batch_id": str(pk), f"would_{self.verb}" if dry_run else self.done: not failed}
        if isinstance(outcome, CallsError):
            data |= {"error": outcome.text, "code": outcome.code}
        else:
            data |= self.as_data(outcome)
        return json.dumps(data)
