"""The lock of a batch, and what the dialler changes under it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import Error, connection
from django.db.models import Case, When
from django.db.models.functions import Coalesce

from calls.audit import Source, history_context
from calls.database.transactions import set_timeouts, transaction_with_timeouts
from calls.database.writers import wait_for_writers
from calls.exceptions import BatchNotFound
from calls.models.base import BaseModel
from calls.models.fields import EnumTextField
from calls.statuses import FINAL, BatchStatus

logger = logging.getLogger(__name__)

# Prefix of the ``error_message`` of a batch that the dialler has paused.
PAUSED_BY_DIALLER = "Paused by the dialler: "
# The batch's error_message, or NULL if the dialler wrote it when it paused the batch.
ERROR_MESSAGE_AFTER_RESUME = Case(When(error_message__startswith=PAUSED_BY_DIALLER, then=None), default="error_message")

# Expressions for locked(), by the database's clock.
CLOCK = {
    "now": "now()",
    "is_scheduled_ahead": "scheduled_for > now()",
    "is_deferred": "dial_after > now()",
}
IS_AGENCY_HELD = {"is_agency_held": "(SELECT held_at IS NOT NULL FROM agencies WHERE id = call_batches.agency_id)"}
# Not FOR NO KEY UPDATE: the weaker lock does not block an INSERT whose foreign key points at the batch, and the new
# contacts would stay dialable in a cancelled batch.
LOCK = "FOR UPDATE"


def claim_lock_name(agency_id: UUID) -> str:
    """Return the name of the advisory lock that every claim of an agency shares until its commit."""
    return f"claim {agency_id}"


class LockableBatch(BaseModel):
    """
    Base of ``CallBatch``: its row lock, its counters, and the status changes of the dialler.

    ``CallBatch`` adds the columns and the verbs of users.
    """

    status = EnumTextField(choices=BatchStatus, default=BatchStatus.PENDING, db_default=BatchStatus.PENDING)

    if TYPE_CHECKING:
        contacts: Any
        agency_id: UUID
        error_message: str | None

    # Read with CLOCK.
    now: datetime
    is_scheduled_ahead: bool | None
    is_deferred: bool | None
    # Read with IS_AGENCY_HELD.
    is_agency_held: bool | None
    # Read by a claim.
    agency_limit: int | None
    agent_id: str | None
    first_speaker_text: str | None

    class Meta:
        abstract = True

    @property
    def log_name(self) -> str:
        """How log lines name this batch."""
        return f"batch={self.pk} agency={self.agency_id}"

    @property
    def has_ended(self) -> bool:
        """Whether the batch was completed or cancelled when this instance was read."""
        return self.status in FINAL

    @property
    def dialler_pause_reason(self) -> str | None:
        """The reason of :meth:`pause_as_dialler`, if it had paused the batch when this instance was read."""
        message = self.error_message or ""
        if self.status != BatchStatus.PAUSED or not message.startswith(PAUSED_BY_DIALLER):
            return None
        return message.removeprefix(PAUSED_BY_DIALLER)

    def start(self) -> None:
        """Set the batch to ``processing``. For the dialler, on an instance that :meth:`locked` yielded."""
        self._write_status_as_dialler(BatchStatus.PROCESSING, started_at=Coalesce("started_at", TransactionNow()))

    def complete_if_finished(self) -> None:
        """Complete a processing batch without unfinished contacts. Call it on an instance from :meth:`locked`."""
        if self.status != BatchStatus.PROCESSING or self._has_calls_in_progress():
            return
        unfinished = self.contacts.unfinished()
        # The first query is answered by an index and is usually enough. Only a batch that is really finished needs the
        # second one, which reads all contacts. exists() would drop the order that makes the planner choose the index.
        if unfinished.in_call_order()[:1].count():
            return
        self.allow_for_all_contacts()
        if not unfinished.exists():
            self._write_status_as_dialler(BatchStatus.COMPLETED, completed_at=TransactionNow())

    def pause_as_dialler(self, reason: str) -> None:
        """
        Pause a processing batch until a user resumes it. Call it on an instance from :meth:`locked`.

        ``reason`` is kept in the history and, after ``PAUSED_BY_DIALLER``, in ``error_message``. A batch in any other
        status is not changed.
        """
        if self.status == BatchStatus.PROCESSING:
            message = f"{PAUSED_BY_DIALLER}{reason}"
            self._write_status_as_dialler(
                BatchStatus.PAUSED, reason=reason, paused_at=TransactionNow(), error_message=message
            )

    @contextmanager
    def locked(self, *columns: str, **expressions: str) -> Iterator[Self]:
        """
        Lock the batch's row and yield it as it is now, in a transaction with timeouts.

        Everything that changes a batch's status, adds contacts, claims a contact or records an outcome starts here: the
        batch first, then its contacts (docs/promise.md). The instance has ``agency_id``, ``status``, ``columns``, and
        the values of ``expressions``, which are SQL.

        A statement on all contacts needs a longer timeout: :meth:`allow_for_all_contacts`.

        :raises BatchNotFound: the row is gone.
        """
        with transaction_with_timeouts():
            yield self._read(*columns, lock=LOCK, **expressions)

    @staticmethod
    def allow_for_all_contacts() -> None:
        """Set the timeout of the statements that follow in this transaction to ``CANCEL_TIMEOUT``."""
        set_timeouts(statement=settings.CANCEL_TIMEOUT)

    def wait_for_other_services(self) -> None:
        """
        Wait for the claims of other services that may have read this batch before its latest change.

        Other services do not lock the batch's row. This app's claims do, so they have already ended. Logs a warning,
        and raises nothing, if a transaction is still open after 5 seconds or the database fails: the change is already
        committed.
        """
        try:
            wait_for_writers(self.contacts.model._meta.db_table, subject=self.log_name)
        except Error as error:
            logger.warning("%s outcome=uncertain: %s", self.log_name, type(error).__name__)

    def adjust_counters(self, **changes: int) -> None:
        """Add ``changes`` to the counters. The caller holds the batch's lock."""
        # By hand: this is done twice for each call, and Django takes longer to build it than PostgreSQL to run it.
        added = ", ".join(f"{counter} = COALESCE({counter}, 0) + %s" for counter in changes)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE call_batches SET {added}, updated_at = now() WHERE id = %s", [*changes.values(), self.pk]
            )

    def _read(self, *columns: str, lock: str = "", **expressions: str) -> Self:
        # By hand, like adjust_counters().
        selected = ["id", "agency_id", "status", *columns, *(f"{sql} AS {name}" for name, sql in expressions.items())]
        rows: list[Self] = list(
            type(self)._default_manager.raw(
                f"SELECT {', '.join(selected)} FROM call_batches WHERE id = %s {lock}", [self.pk]
            )
        )
        if not rows:
            raise BatchNotFound
        return rows[0]

    def _has_calls_in_progress(self) -> bool:
        # Not self.contacts: its condition on the batch would offer the planner other, slower indexes.
        return bool(self.contacts.model.objects.with_call_in_progress(self.pk).exists())

    def _write_status(self, status: BatchStatus, **columns: Any) -> bool:
        """Write the status and ``columns``. Return False if a trigger of another service dropped the UPDATE."""
        unchanged = type(self)._default_manager.filter(pk=self.pk, status=self.status)
        return bool(unchanged.update(status=status, updated_at=TransactionNow(), **columns))

    def _write_status_as_dialler(self, status: BatchStatus, *, reason: str | None = None, **columns: Any) -> None:
        with history_context(source=Source.DIALLER, reason=reason):
            if not self._write_status(status, **columns):
                return
        self.status = status
        logger.log(
            logging.WARNING if reason else logging.INFO,
            "dialler %s outcome=%s%s",
            *(self.log_name, status, f" reason={reason}" if reason else ""),
        )
