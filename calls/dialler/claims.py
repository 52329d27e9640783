"""
Claim the next contact of a batch, immediately before its call is placed.

The two statements that choose and claim a contact are written by hand: Django takes longer to build such querysets than
PostgreSQL to run them, and claims of one batch wait for each other meanwhile.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import connection

from calls.database.sql import column_names, literals
from calls.database.transactions import database_errors_as, lock_name
from calls.dialler.pacing import calls_per_minute, max_concurrent
from calls.exceptions import BatchUpdateFailed
from calls.models import CallBatch, CampaignContact
from calls.models.locking import claim_lock_name
from calls.statuses import DIALABLE, BatchStatus, ContactStatus, Outcome

logger = logging.getLogger(__name__)

# The most contacts that one claim skips or fails without a call. Meanwhile a cancel waits for the batch's lock.
MAX_ENDED_UNCALLED = 100

# What a claim reads of the batch and its agency, and what the call request needs of its agent. They are subselects and
# not joins, because the lock is for the batch alone.
_COLUMNS = ("calls_per_minute", "max_concurrent", "from_number")
_EXPRESSIONS = {
    "is_deferred": "dial_after > now()",
    "agency_limit": "(SELECT max_concurrent_calls FROM agencies WHERE id = call_batches.agency_id)",
    "agent_id": "(SELECT ultravox_agent_id FROM agent_mappings WHERE id = call_batches.agent_mapping_id)",
    "first_speaker_text": "(SELECT first_speaker_text FROM agent_mappings WHERE id = call_batches.agent_mapping_id)",
}
# The conditions, the counts and the order are those of CampaignContactQuerySet. The expressions are written as in the
# indexes, without which PostgreSQL would not use them. OFFSET 0 keeps the look-up of the number from becoming a join,
# which would read all calls in progress.
_LAST_CALLED = "COALESCE(last_attempt_at, '0001-01-01 00:00:00+00')"
_IN_PROGRESS = f"'{ContactStatus.IN_PROGRESS}'"
_NUMBER_IS_FREE = f"""
    NOT EXISTS (
        SELECT FROM campaign_contacts AS called
        WHERE CASE WHEN called.batch_id IS NOT NULL AND called.last_attempt_at IS NOT NULL AND called.outcome IS NULL
                THEN called.agency_id END = contact.agency_id
            AND called.phone_number = contact.phone_number
            AND called.last_attempt_at IS NOT NULL AND called.outcome IS NULL AND called.status = {_IN_PROGRESS}
        OFFSET 0
    )
"""
# Two claims of one number in two batches hold no common row lock, so they take turns by an advisory lock. It is tried
# and not waited for: two claims that each wait for the other's number would deadlock. It is tried outside of the query
# that locks the contact: inside, PostgreSQL would take it for each contact that SKIP LOCKED passes over.
_TRY_TO_LOCK_NUMBER = (
    "pg_try_advisory_xact_lock(hashtextextended(concat('number ', chosen.agency_id, chosen.phone_number), 0))"
)
_AGENCY_LIMIT = "(SELECT max_concurrent_calls FROM agencies WHERE id = %(agency)s)"
_CHOOSE = f"""
    SELECT id, do_not_call, COALESCE(attempts, 0), COALESCE(max_attempts, 3), outcome, statement_timestamp(),
        pg_advisory_xact_lock_shared(hashtextextended(%(claim_lock)s, 0)),
        (SELECT held_at IS NOT NULL OR dial_after > statement_timestamp() FROM agencies WHERE id = %(agency)s),
        {_AGENCY_LIMIT},
        (
            SELECT count(*) FROM campaign_contacts
            WHERE CASE WHEN last_attempt_at IS NOT NULL AND outcome IS NULL THEN batch_id END = %(batch)s
                AND status = {_IN_PROGRESS}
        ),
        (
            SELECT count(*) FROM campaign_contacts
            WHERE CASE WHEN last_attempt_at IS NOT NULL THEN batch_id END = %(batch)s
                AND last_attempt_at > statement_timestamp() - interval '1 minute'
                AND last_attempt_at <= statement_timestamp()
        ),
        CASE WHEN {_AGENCY_LIMIT} IS NOT NULL THEN (
            SELECT count(*) FROM campaign_contacts
            WHERE CASE WHEN batch_id IS NOT NULL AND last_attempt_at IS NOT NULL AND outcome IS NULL
                    THEN agency_id END = %(agency)s
                AND last_attempt_at IS NOT NULL AND outcome IS NULL AND status = {_IN_PROGRESS}
        ) ELSE 0 END,
        {_TRY_TO_LOCK_NUMBER}
    FROM (
        SELECT id, do_not_call, attempts, max_attempts, outcome, agency_id, phone_number
        FROM campaign_contacts AS contact
        WHERE batch_id = %(batch)s AND completed_at IS NULL AND status IN {literals(*DIALABLE)}
            AND {_LAST_CALLED}
                <= LEAST(statement_timestamp() - make_interval(secs => %(retry_pause)s), %(called_before)s::timestamptz)
            AND {_NUMBER_IS_FREE}
        ORDER BY {_LAST_CALLED}, created_at, id
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS chosen
"""
# The condition on the number is checked again, because a call to it may have begun after the contact was chosen. The
# hold is checked again for the same reason: it may have begun since then.
_CLAIM = f"""
    WITH claimed AS (
        UPDATE campaign_contacts AS contact
        SET status = {_IN_PROGRESS}, attempts = %(attempts)s, last_attempt_at = %(now)s, updated_at = now(),
            call_id = NULL, outcome = NULL, outcome_notes = NULL, duration_seconds = NULL
        WHERE id = %(contact)s AND {_NUMBER_IS_FREE}
            AND NOT EXISTS (SELECT FROM agencies WHERE id = %(agency)s AND held_at IS NOT NULL)
        RETURNING *
    ), counted AS (
        UPDATE call_batches
        SET queued = COALESCE(queued, 0) - 1, in_progress = COALESCE(in_progress, 0) + 1, updated_at = now()
        WHERE id = %(batch)s AND EXISTS (SELECT FROM claimed)
    )
    SELECT {", ".join(column_names(CampaignContact))} FROM claimed
"""


@dataclass(frozen=True)
class _Choice:
    """The contact to claim, which is locked, its agency's state, and the calls that the limits count."""

    contact_id: UUID
    do_not_call: bool | None
    attempts: int
    max_attempts: int
    outcome: str | None
    now: datetime
    claim_lock: object
    """Always empty. Selecting this column takes the lock that :meth:`Agency.hold` looks for."""
    is_agency_waiting: bool | None
    """Whether it is on hold or deferred."""
    agency_limit: int | None
    in_progress: int
    started: int
    agency_in_progress: int
    is_number_locked: bool


@database_errors_as(BatchUpdateFailed)
def claim_next_contact(batch: CallBatch, *, called_before: datetime | None = None) -> CampaignContact | None:
    """
    Claim the contact of ``batch`` to call next. Place the call only after this has been committed.

    The contact is then in progress and its attempt is counted. Return None if no call may start: the batch is not being
    dialled, its agency is on hold, it or its agency has reached a limit, or no contact can be claimed now. A batch
    without unfinished contacts is completed. A contact marked ``do_not_call`` is skipped. A contact without attempts
    left becomes ``failed``. Contacts that another service has locked, or whose number is being called in another batch
    of the agency, are passed over. If another claim takes the same number at this moment, nothing is claimed.

    :param called_before: leave out contacts that were called since then.
    :returns: the contact. Its ``batch`` has the agent and the caller id.
    :raises BatchNotFound: the batch is gone.
    :raises BatchUpdateFailed: a database error or timeout; nothing was changed.
    """
    with batch.locked(*_COLUMNS, **_EXPRESSIONS) as locked:
        if locked.status != BatchStatus.PROCESSING or locked.is_deferred:
            return None
        if locked.agent_id is None:
            logger.error("dial batch=%s: its agent mapping does not exist", locked.pk)
            return None
        if locked.agency_limit is not None:
            _lock_agency(locked)
        for _ in range(MAX_ENDED_UNCALLED):
            choice = _choose(locked, called_before)
            if choice is None:
                locked.complete_if_finished()
                return None
            if choice.is_agency_waiting or not choice.is_number_locked or _may_exceed_limit(locked, choice):
                return None
            if choice.do_not_call:
                _end_uncalled(choice, locked, ContactStatus.SKIPPED, "Do not call")
            elif choice.attempts >= choice.max_attempts:
                _end_uncalled(choice, locked, ContactStatus.FAILED, "No attempts left", completed_at=TransactionNow())
            else:
                return _claim(choice, locked)
        return None


def _lock_agency(batch: CallBatch) -> None:
    """
    Make claims in other batches of the agency wait. They then count the call that is claimed here.

    It is not a lock of the agency's row: a claim holds its batch, so a cancel would wait for what other services do to
    the agency.
    """
    lock_name(f"agency {batch.agency_id}")


def _choose(batch: CallBatch, called_before: datetime | None) -> _Choice | None:
    with connection.cursor() as cursor:
        cursor.execute(
            _CHOOSE,
            {
                "batch": batch.pk,
                "agency": batch.agency_id,
                "claim_lock": claim_lock_name(batch.agency_id),
                "retry_pause": settings.RETRY_PAUSE,
                "called_before": called_before,
            },
        )
        row = cursor.fetchone()
    return _Choice(*row) if row else None


def _may_exceed_limit(batch: CallBatch, choice: _Choice) -> bool:
    """Return whether one more call could exceed a limit."""
    if choice.in_progress >= max_concurrent(batch) or choice.started >= calls_per_minute(batch):
        return True
    if choice.agency_limit is None:
        return False
    # If the limit was set while this claim waited for the batch, the agency is not locked and the count is not certain.
    return batch.agency_limit is None or choice.agency_in_progress >= choice.agency_limit


def _claim(choice: _Choice, batch: CallBatch) -> CampaignContact | None:
    """
    Claim the contact, and count it on the batch.

    Return None if a call to its number has just begun, or if its agency has just been put on hold.
    """
    values = {
        "contact": choice.contact_id,
        "batch": batch.pk,
        "agency": batch.agency_id,
        "attempts": choice.attempts + 1,
        "now": choice.now,
    }
    claimed = CampaignContact.objects.raw(_CLAIM, values)
    for contact in claimed:
        contact.batch = batch
        contact.was_given_back = choice.outcome == Outcome.NOT_PLACED
        return contact
    return None


def _end_uncalled(choice: _Choice, batch: CallBatch, status: ContactStatus, note: str, **values: Any) -> None:
    CampaignContact.objects.filter(pk=choice.contact_id).update(
        status=status, outcome_notes=note, updated_at=TransactionNow(), **values
    )
    batch.adjust_counters(**{"queued": -1, str(status): 1})
