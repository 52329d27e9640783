"""
Another service claims contacts without any lock while batches are paused and agencies are held.

A claim that is committed after the answer breaks the promise. The test reads the contacts on a separate connection
right after the answer, and again when every claim that was open then has ended. The control does not wait for other
transactions.
"""

import random
import time

import pytest

from calls.models import agency, locking
from calls.statuses import ContactStatus
from calls.tests.support.agency_verbs import hold, release
from calls.tests.support.factories import pause, plain_connection, resume
from calls.tests.support.other_claimers import MAX_OPEN, other_claimers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

ROUNDS = 200
CONTACTS = 30

# Each verb that stops claims, and the one that allows them again. They get the batch and its tenant.
STOPS = {
    "pause": (lambda batch, tenant: pause(batch), lambda batch, tenant: resume(batch)),
    "hold": (lambda batch, tenant: hold(tenant), lambda batch, tenant: release(tenant)),
}


def rounds_with_late_claims(tenant, stop, *, until_first=False):
    """
    Run rounds in which claims are stopped at a random moment.

    Return the number of rounds in which a contact became in progress after the answer, and the number of rounds in
    which a contact was claimed before it. ``until_first`` ends the rounds at the first late claim.
    """
    stop_claims, allow_claims = STOPS[stop]
    batch = tenant.batch(queued=CONTACTS)
    contact_ids = list(batch.contacts.values_list("pk", flat=True))
    late = claimed = 0
    with plain_connection() as observer, other_claimers(contact_ids):

        def in_progress():
            sql = "SELECT id FROM campaign_contacts WHERE status = 'in_progress'"
            return {row[0] for row in observer.execute(sql).fetchall()}

        for _ in range(ROUNDS):
            time.sleep(random.uniform(0, MAX_OPEN))
            stop_claims(batch, tenant)
            answered = in_progress()
            time.sleep(3 * MAX_OPEN)
            late += bool(in_progress() - answered)
            claimed += bool(answered)
            if late and until_first:
                break
            batch.contacts.update(status=ContactStatus.QUEUED)
            allow_claims(batch, tenant)
    return late, claimed


@pytest.mark.parametrize("stop", STOPS)
def test_no_claim_of_another_service_is_committed_after_the_answer(harbour, stop):
    late, claimed = rounds_with_late_claims(harbour, stop)

    assert late == 0
    # Otherwise the rounds would not have tested the race.
    assert claimed > ROUNDS / 2


@pytest.mark.parametrize("stop", STOPS)
def test_control_without_the_wait_a_claim_is_committed_after_the_answer(harbour, stop, monkeypatch):
    for module in (locking, agency):
        monkeypatch.setattr(module, "wait_for_writers", lambda *args, **kwargs: [])

    late, _ = rounds_with_late_claims(harbour, stop, until_first=True)

    assert late == 1
