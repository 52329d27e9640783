"""Idempotency keys: a request that is sent again gets the first answer and is not carried out twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import BatchCreateFailed, FieldInvalid, IdempotencyKeyReused
from calls.inputs import NewBatch, NewReplacement
from calls.models.agency import Agency
from calls.models.retention import RetainedQuerySet

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class IdempotencyKey(models.Model):
    """
    The fingerprint and the answer of a request that an agency sent with an ``Idempotency-Key``.

    Kept for ``IDEMPOTENCY_KEY_RETENTION`` days.

    The row is written in the transaction that carries out the request, so either both are stored or neither.
    """

    # No database constraint, because it would keep another service that owns the agencies from deleting an agency.
    agency = models.ForeignKey(Agency, on_delete=models.PROTECT, db_constraint=False, db_index=False)
    key = models.TextField()
    fingerprint = models.TextField(help_text="Hash of the request")
    answer = models.TextField(help_text="JSON")
    created_at = models.DateTimeField(default=timezone.now, db_default=Now())

    objects = RetainedQuerySet["IdempotencyKey"].as_manager()

    class Meta:
        db_table = "call_idempotency_keys"
        constraints = [
            # For repeated requests. If two requests arrive at the same moment, the second waits for the first.
            models.UniqueConstraint(name="idempotency_key_of_agency", fields=["agency", "key"]),
        ]

    def __str__(self) -> str:
        return self.key

    @classmethod
    @contextmanager
    def reserve(cls, agency_id: UUID, key: str, new: NewBatch | NewReplacement) -> Iterator[IdempotencyKey]:
        """
        Open a transaction and reserve ``key`` in it. Yields the row of the key.

        Inside the block the caller carries out the request and stores its answer, unless the row has one already. If
        the block raises, the reservation is rolled back with everything else, so that the key can be used again. A
        second request with the same key waits until the block ends.

        :param key: 1 to 255 visible ASCII characters.
        :param new: the request, which must be the same each time that the key is used.
        :raises FieldInvalid: ``key`` has another form.
        :raises IdempotencyKeyReused: the key was used for another request.
        :raises BatchCreateFailed: a database error or timeout; nothing was stored.
        """
        if not _KEY.fullmatch(key):
            raise FieldInvalid("idempotency_key", "must be 1 to 255 visible ASCII characters")
        fingerprint = new.fingerprint
        with database_errors_as(BatchCreateFailed), transaction_with_timeouts():
            row, _ = cls.objects.get_or_create(agency_id=agency_id, key=key, defaults={"fingerprint": fingerprint})
            if row.fingerprint != fingerprint:
                raise IdempotencyKeyReused
            yield row

    @property
    def stored_answer(self) -> dict[str, Any] | None:
        """The answer to the first request with this key, or None if this is the first request."""
        return json.loads(self.answer) if self.answer else None

    def store_answer(self, answer: dict[str, Any]) -> None:
        self.answer = json.dumps(answer)
        self.save(update_fields=["answer"])
