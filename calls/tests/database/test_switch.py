"""The switch from another dialler, with the statements of docs/adopt.md."""

import re

import pytest
from django.conf import settings
from django.db import connection

from calls.dialler.passes import PassResult, run_pass
from calls.models import CallBatch
from calls.tests.support.factories import cancel

pytestmark = pytest.mark.django_db(transaction=True)


def run_statements(step):
    """Run the SQL of one step of the section "Switch from edge functions"."""
    text = (settings.BASE_DIR / "docs" / "adopt.md").read_text()
    _, _, section = text.partition("## Switch from edge functions")
    _, _, section = section.partition(f"\n{step}. ")
    statements = re.findall(r"^ {8}((?:ALTER|UPDATE) .*)$", section.partition(f"\n{step + 1}. ")[0], re.MULTILINE)
    assert len(statements) == 2
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def batches_of_the_old_dialler(harbour, ultravox):
    """A failed batch from before the switch, and a batch that the old create function adds after step 1."""
    before = harbour.batch("failed", queued=2)
    run_statements(1)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number, status)"
            " SELECT agency_id, campaign_id, agent_mapping_id, from_number, 'pending' FROM call_batches"
        )
        # Another service may dial a failed batch again.
        cursor.execute("UPDATE call_batches SET status = 'processing' WHERE status = 'failed'")
    yield [before, CallBatch.objects.exclude(pk=before.pk).get()]
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE call_batches ALTER dial_after DROP DEFAULT")


def test_after_step_1_the_app_dials_none_of_the_old_batches_and_can_cancel_them(batches_of_the_old_dialler):
    assert run_pass() == PassResult(0, 0, 0)
    assert [cancel(batch).contacts_skipped for batch in batches_of_the_old_dialler] == [2, 0]


def test_after_step_5_the_app_dials_them(batches_of_the_old_dialler, harbour):
    run_statements(5)

    assert run_pass().calls_initiated == 2
    harbour.batch(queued=1)
    assert run_pass().calls_initiated == 1


def test_the_statements_of_step_1_stop_the_app_s_dialling_again(batches_of_the_old_dialler, harbour):
    run_statements(5)
    harbour.batch(queued=1)

    run_statements(1)

    assert run_pass() == PassResult(0, 0, 0)
