"""Rows that are kept for a limited time."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TypeVar

from django.db import models
from django.utils import timezone

from calls.database.transactions import retry_on_deadlock, transaction_with_timeouts

# Rows per transaction. A webhook event may have a megabyte, and 500 of those take two seconds.
CHUNK = 500

M = TypeVar("M", bound=models.Model)


class RetainedQuerySet(models.QuerySet[M]):
    """
    QuerySet of a model with ``created_at`` and an id that grows with it.

    So the primary key finds the oldest rows. An index on ``created_at`` would slow down every insert.
    """

    def delete_older_than(self, age: timedelta, *, deadline: float) -> int:
        """
        Delete the rows that were created more than ``age`` ago, oldest first, each chunk in its own transaction.

        Ends at ``deadline``, a value of ``time.monotonic()``. Call it again to delete the rest. Several processes may
        call it at once. Younger rows are not locked.

        :returns: how many rows were deleted.
        """
        created_before = timezone.now() - age
        total, last_id = 0, 0
        while time.monotonic() < deadline:
            deleted, last_id = self._delete_chunk(last_id, created_before)
            total += deleted
            if not deleted:
                break
        return total

    @retry_on_deadlock
    def _delete_chunk(self, after: int, created_before: datetime) -> tuple[int, int]:
        """Delete the expired rows among the next ones after this id. Return how many, and the last id of the chunk."""
        following = self.filter(pk__gt=after)
        with transaction_with_timeouts():
            ids = list(following.order_by("pk").values_list("pk", flat=True)[:CHUNK])
            if not ids:
                return 0, after
            deleted, _ = following.filter(pk__lte=ids[-1], created_at__lt=created_before).delete()
        return deleted, ids[-1]
