"""The base class of most models: id, created_at and updated_at."""

from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from uuid_utils.compat import uuid7


class BaseModel(models.Model):
    """
    Id and timestamps. Every default is also in the database, because other services insert rows by SQL.

    ``update()`` and ``save(update_fields=…)`` do not change ``updated_at``: set it explicitly.
    """

    # UUIDv7 is ordered by time, which is cheaper to index than the database's random default.
    id = models.UUIDField(primary_key=True, default=uuid7, db_default=RandomUUID(), editable=False)
    created_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        abstract = True
