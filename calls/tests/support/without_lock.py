"""Settings for controls: no row is locked, and each claim waits a moment between reading a contact and writing it."""

import random
import time

from django.db.backends.utils import CursorWrapper

from agency_backend.settings import *  # noqa: F403

execute = CursorWrapper.execute


def execute_unlocked_and_wait(self, sql, params=None):
    # Not at the top: the app is not loaded yet.
    from calls.tests.support.unlocked import unlocked

    result = execute(self, unlocked(sql), params)
    if "SKIP LOCKED" in str(sql):
        time.sleep(random.uniform(0, 0.2))
    return result


CursorWrapper.execute = execute_unlocked_and_wait
