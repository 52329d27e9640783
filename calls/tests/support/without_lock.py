"""Settings for controls: no batch is locked, and each claim waits a moment between reading a contact and writing it."""

import random
import time

from django.db.models import QuerySet

from agency_backend.settings import *  # noqa: F403

first = QuerySet.first


def first_and_wait(self):
    found = first(self)
    if self.model.__name__ == "CampaignContact":
        time.sleep(random.uniform(0, 0.2))
    return found


QuerySet.select_for_update = lambda self, *args, **kwargs: self
QuerySet.first = first_and_wait
