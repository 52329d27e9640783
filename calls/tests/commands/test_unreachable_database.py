"""The commands when the database cannot be reached: one line, exit status 1, and no wait for each batch."""

import json
from contextlib import ExitStack

import pytest
from django.core.management import CommandError
from django.db import connection

from calls.database.adoption.survey import survey
from calls.management.commands import cancel_batch, check_database, reconcile_batches
from calls.models import CallBatch
from calls.models.reconciliation import reconcile
from calls.tests.support.manage import manage
from calls.tests.support.outage import database_away
from calls.tests.support.server import environment_on
from calls.tests.support.unreachable import server_that_does_not_answer, server_that_refuses

pytestmark = pytest.mark.not_adopted

UNREACHABLE = "CommandError: Failed to read batches (read_failed): the database cannot be reached, nothing was done"
IDS = ["01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10", "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e11"]
COMMANDS = [
    *(f"{verb}_batch {IDS[0]} {IDS[1]}" for verb in ("cancel", "pause", "resume")),
    f"cancel_batch {IDS[0]} --agency a",
    f"cancel_batch {IDS[0]} {IDS[1]} --dry-run",
    *(f"export_batch {IDS[0]}", f"export_batch {IDS[0]} --agency a"),
    *("check_database", "repair_database", "reconcile_batches", "reconcile_batches --fix"),
    *("process_batches", "sweep_batches", "delete_expired", "issue_token a@example.com", "demo"),
    *("set_ultravox_key a", "set_ultravox_key a --remove"),
    *(
        "cancel_batch --all --agency a",
        "cancel_batch --all --agency a --dry-run",
        "cancel_batch --all --agency a --json",
    ),
    *("hold_agency a", "release_agency a", f"replace_batch {IDS[0]}", f"replace_batch {IDS[0]} --agency a"),
]


def run(command, port):
    url = f"postgresql://user:S3cret@127.0.0.1:{port}/nothing"
    done = manage(*command.split(), environment=environment_on(url, DJANGO_DEBUG="1"))
    assert "S3cret" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_once_that_the_database_cannot_be_reached(command):
    done = run(command, port=1)

    assert (done.returncode, done.stdout) == (1, "")
    assert [line for line in done.stderr.splitlines() if "cannot be reached" in line] == [UNREACHABLE]
    assert "Traceback" not in done.stderr
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [("28P01", "password authentication failed"), ("57P03", "the database system is starting up")],
)
def test_a_server_that_refuses_is_asked_once_for_all_batches(sqlstate, message):
    with server_that_refuses(sqlstate, message) as (port, accepted):
        done = run(COMMANDS[0], port)

    assert (done.returncode, done.stdout, len(accepted)) == (1, "", 1)
    assert done.stderr.splitlines()[-1] == UNREACHABLE
    assert message in done.stderr


def test_a_server_that_does_not_answer_is_given_up():
    with server_that_does_not_answer() as port:
        done = run(COMMANDS[0], port)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == UNREACHABLE
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--agency", "a"]], ids=" ".join)
def test_with_json_each_batch_has_its_object(options):
    done = run(" ".join(["cancel_batch", *IDS, "--json", *options]), port=1)

    assert done.returncode == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "batch_id": pk,
            "would_cancel" if "--dry-run" in options else "cancelled": False,
            "error": "the database cannot be reached",
            "code": "read_failed",
        }
        for pk in IDS
    ]


@pytest.fixture
def lose_database():
    """A function after which the database cannot be reached, until the end of the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(database_away())
    connection.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("json_option", [[], ["--json"]], ids=["text", "json"])
def test_a_database_lost_between_two_batches_fails_the_others_without_a_wait_for_each(
    harbour, run_command, monkeypatch, lose_database, json_option
):
    batches = [harbour.batch(queued=1) for _ in range(4)]
    perform, tried = cancel_batch.Command.perform, []

    def perform_until_the_second(self, batch, actor, reason):
        tried.append(batch.pk)
        if len(tried) == 2:
            lose_database()
        return perform(self, batch, actor, reason)

    monkeypatch.setattr(cancel_batch.Command, "perform", perform_until_the_second)
    status, lines = run_command("cancel_batch", *(batch.pk for batch in batches), *json_option)

    assert (status, tried) == (1, [batch.pk for batch in batches[:2]])
    assert [str(batch.pk) in line for batch, line in zip(batches, lines, strict=True)] == [True] * 4
    assert "update_failed" in lines[1]
    assert ["the database cannot be reached" in line for line in lines] == [False, False, True, True]


@pytest.mark.django_db(transaction=True)
def test_a_database_lost_during_a_cancel_of_all_batches_fails_the_others_without_a_wait_for_each(
    harbour, run_command, monkeypatch, lose_database
):
    for _ in range(5):
        harbour.batch(queued=1)
    cancel, tried = CallBatch.cancel, []

    def cancel_until_the_second(self, **arguments):
        tried.append(self.pk)
        if len(tried) == 2:
            lose_database()
        return cancel(self, **arguments)

    monkeypatch.setattr(CallBatch, "cancel", cancel_until_the_second)
    status, lines = run_command("cancel_batch", "--all", "--agency=harbour")

    # One more is tried, because the server may accept another connection.
    assert (status, len(tried), len(lines)) == (1, 3, 5)
    assert ["update_failed" in line for line in lines] == [False, True, True, True, True]


@pytest.mark.django_db(transaction=True)
def test_reconcile_batches_ends_at_the_first_batch_when_the_database_is_lost(
    harbour, run_command, monkeypatch, lose_database
):
    batches, compare, tried = [harbour.batch(queued=1) for _ in range(3)], reconcile, []

    def lose_and_continue(pk, *, fix):
        tried.append(pk)
        lose_database()
        return compare(pk, fix=fix)

    monkeypatch.setattr(reconcile_batches, "reconcile", lose_and_continue)
    with pytest.raises(CommandError, match="the database is lost"):
        run_command("reconcile_batches")

    assert len(batches) > len(tried) == 1


@pytest.mark.django_db(transaction=True)
def test_a_database_lost_in_the_middle_of_a_command_is_one_line(run_command, monkeypatch, lose_database):
    def lose_and_continue(apps):
        lose_database()
        return survey(apps)

    monkeypatch.setattr(check_database, "survey", lose_and_continue)
    with pytest.raises(CommandError, match=r"^database error: OperationalError "):
        run_command("check_database")
