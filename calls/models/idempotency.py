"""A request that is sent twice, because its first answer was lost, is done once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchCreateFailed, FieldInvalid, IdempotencyKeyReused
from calls.inputs import NewBatch
from calls.models.agency import Agency

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class IdempotencyKey(models.Model):
    """
    What an agency has asked for under a key of its own choice, and what it was answered. Kept for good.

    Written in the transaction of the work itself: either both are there, or neither.
    """

    # No constraint in the database, since the agencies may be another service's, which may then not delete one.
    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    key = models.TextField()
    fingerprint = models.TextField(help_text="Of what was asked for")
    answer = models.TextField(help_text="JSON")
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        db_table = "call_idempotency_keys"
        constraints = [
            # For whoever asks again; and of two who ask at the same moment, the second waits for the first.
            models.UniqueConstraint(name="idempotency_key_of_agency", fields=["agency", "key"]),
        ]

    def __str__(self) -> str:
        return self.key

    @classmethod
    def once(
        cls, agency_id: UUID, key: str | None, wanted: NewBatch, work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """
        The answer of ``work``, or the one that it gave when this key came first. Without a key: the answer of ``work``.

        What ``work`` refuses leaves no trace, so that the same key may come again with what is right.

        :param key: 1 to 255 visible ASCII characters.
        :param wanted: what is asked for, which is compared with what was.
        :raises FieldInvalid: ``key`` is no such key.
        :raises IdempotencyKeyReused: it came before, with another body.
        :raises BatchCreateFailed: the database refused, failed or took too long; nothing was stored.
        """
        if key is None:
            return work()
        if not _KEY.fullmatch(key):
            raise FieldInvalid("idempotency_key", "must be 1 to 255 visible ASCII characters")
        fingerprint = wanted.fingerprint
        with database_errors_as(BatchCreateFailed), transaction_with_timeouts():
            first, is_first = cls.objects.get_or_create(
                agency_id=agency_id, key=key, defaults={"fingerprint": fingerprint}
            )
            if first.fingerprint != fingerprint:
                raise IdempotencyKeyReused
            if is_first:
                first.answer = json.dumps(work())
                first.save(update_fields=["answer"])
            answer: dict[str, Any] = json.loads(first.answer)
            return answer
