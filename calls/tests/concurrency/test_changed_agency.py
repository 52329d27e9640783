"""A hold and a limit that are written to the agency while a claim waits for the lock of its batch."""

import pytest

from calls.dialler.claims import claim_next_contact
from calls.tests.support.concurrency import PausedThread, wait_for_lock_waiter
from calls.tests.support.factories import plain_connection

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("change", ["dial_after = now() + interval '1 hour'", "max_concurrent_calls = 0"])
def test_a_claim_that_has_waited_for_its_batch_sees_what_was_written_to_the_agency_meanwhile(harbour, change):
    batch = harbour.batch(queued=1)
    with plain_connection() as plain, plain.transaction():
        plain.execute("SELECT 1 FROM call_batches WHERE id = %s FOR UPDATE", [batch.pk])
        claiming = PausedThread(lambda: claim_next_contact(batch))
        claiming.start()
        assert wait_for_lock_waiter()
        with plain_connection() as other:
            other.execute(f"UPDATE agencies SET {change} WHERE id = %s", [harbour.agency.pk])

    assert claiming.release() is None
