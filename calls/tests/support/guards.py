"""Whether the database's guards refuse a write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from django.db import IntegrityError, transaction

from calls.models import CallBatch, CampaignContact
from calls.statuses import FINAL, BatchStatus
from calls.tests.support.factories import PHONE

# The statuses of a batch in which no contact is claimed.
STOPPED = [*FINAL, BatchStatus.PAUSED]


def pairs(*groups: Iterable[Any]) -> list[tuple[Any, ...]]:
    return list(itertools.product(*groups))


def refused_by(constraint: str, write: Callable[[], Any]) -> bool:
    """Return whether this guard refuses the write. Fail if the write is refused for another reason."""
    return refusal_of(constraint, write) is not None


def refusal_of(constraint: str, write: Callable[[], Any]) -> str | None:
    """Return the message with which this guard refuses the write, or None. Fail as :func:`refused_by` does."""
    try:
        with transaction.atomic():
            write()
    except IntegrityError as error:
        refusal = error
    else:
        return None
    cause = refusal.__cause__
    assert isinstance(cause, psycopg.errors.CheckViolation)
    assert (cause.sqlstate, cause.diag.constraint_name, cause.diag.schema_name) == ("23514", constraint, "public")
    assert PHONE not in str(refusal)
    return cause.diag.message_primary


def batch_refused(batch: CallBatch, **changes: Any) -> bool:
    return refused_by("batch_final", lambda: CallBatch.objects.filter(pk=batch.pk).update(**changes))


def contact_refused(contact: CampaignContact, **changes: Any) -> bool:
    return refused_by("contact_batch_live", lambda: CampaignContact.objects.filter(pk=contact.pk).update(**changes))
