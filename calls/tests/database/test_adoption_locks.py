"""Adoption and undo while other services write: every writer waits less than a second for a lock."""

import pytest

from calls.tests.support.adoption import Writer, run_beside_writers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.not_adopted]

MIGRATE = ("migrate", "--fake-initial", "--verbosity", "0")
WITH_LONG_LOCK_TIMEOUT = """
from calls.database.adoption import steps
steps.STEP_LOCK_TIMEOUT = "60s"
from django.core.management import call_command
call_command("migrate", fake_initial=True, verbosity=0)
"""


def test_adoption_does_not_make_a_writer_wait_behind_a_long_transaction(legacy):
    assert run_beside_writers(legacy, *MIGRATE) is False


def test_undo_does_not_make_a_writer_wait_behind_a_long_transaction(adopted):
    assert run_beside_writers(adopted, "migrate", "calls", "0001", "--verbosity", "0") is False


def test_the_guards_are_replaced_without_waiting_for_a_transaction_that_wrote_the_history(legacy):
    legacy.manage("migrate", "--fake-initial", "calls", "0003")

    with Writer(legacy) as writer, legacy.connect() as long, long.transaction():
        long.execute("UPDATE call_batches SET status = 'paused'")
        assert legacy.manage("migrate", "calls", "0009")[0] == 0

    assert writer.gave_up is False


def test_control_with_a_long_lock_timeout_a_writer_waits_as_long_as_the_transaction(legacy):
    assert run_beside_writers(legacy, "shell", "--no-imports", "--command", WITH_LONG_LOCK_TIMEOUT) is True
