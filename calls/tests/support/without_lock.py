"""Settings for controls: no row is locked, and each claim waits a moment between reading a contact and writing it."""

import random
import time

from django.db.backends.utils import CursorWrapper
from django.db.models import QuerySet

from agency_backend.settings import *  # noqa: F403

execute = CursorWrapper.execute


def execute_unlocked(self, sql, params=None):
    # Not at the top: the app is not loaded yet.
    from calls.tests.support.unlocked import unlocked

    result = execute(self, unlocked(sql) if isinstance(sql, str) else sql, params)
    if "FOR UPDATE SKIP LOCKED" in sql:
        time.sleep(random.uniform(0, 0.2))
    return result


QuerySet.select_for_update = lambda self, *args, **kwargs: self
CursorWrapper.execute = execute_unlocked
