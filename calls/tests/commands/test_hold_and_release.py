"""manage.py hold_agency and release_agency."""

import logging
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.models import QuerySet

from calls.exceptions import HoldUnconfirmed
from calls.models import Agency
from calls.tests.support.dialling import claim, started_batch
from calls.tests.support.functions import agency_history, latest_context

pytestmark = pytest.mark.django_db

SINCE = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def held_at(tenant):
    return Agency.objects.values_list("held_at", flat=True).get(pk=tenant.agency.pk)


def test_hold_agency_holds_this_agency_and_prints_the_calls_in_progress(harbour, bluebell, run_command):
    claim(started_batch(harbour))

    status, lines = run_command("hold_agency", "harbour")

    since = f"{held_at(harbour):%Y-%m-%d %H:%M:%S} UTC"
    assert (status, lines) == (0, [f"harbour: on hold since {since}. Calls in progress, which will finish: 1."])
    assert held_at(bluebell) is None


def test_hold_agency_keeps_the_time_of_an_earlier_hold(harbour, run_command):
    Agency.objects.filter(pk=harbour.agency.pk).update(held_at=SINCE)

    assert run_command("hold_agency", "harbour") == (
        0,
        ["harbour: on hold since 2026-01-31 09:30:00 UTC. Calls in progress, which will finish: 0."],
    )
    assert held_at(harbour) == SINCE


def test_release_agency_ends_the_hold(harbour, bluebell, run_command):
    Agency.objects.update(held_at=SINCE)

    assert run_command("release_agency", "harbour") == (0, ["harbour: not on hold."])
    assert (held_at(harbour), held_at(bluebell)) == (None, SINCE)
    assert run_command("release_agency", "harbour") == (0, ["harbour: not on hold."])


def test_the_history_names_the_command_its_user_and_the_reason(harbour, run_command):
    run_command("hold_agency", "harbour", "--reason", "A complaint")
    context = latest_context(harbour)
    assert (context["via"], context["actor"]["kind"], context["reason"]) == ("command", "os_user", "A complaint")

    run_command("release_agency", "harbour")

    assert "reason" not in latest_context(harbour)
    assert agency_history(harbour) == ["held", "released"]


@pytest.mark.parametrize("command", ["hold_agency", "release_agency"])
@pytest.mark.parametrize("slug", ["nowhere", "", "\udcff"], ids=ascii)
def test_an_unknown_agency_is_bad_usage(harbour, command, slug):
    with pytest.raises(CommandError, match="no agency with the slug") as bad_usage:
        call_command(command, slug)

    assert bad_usage.value.returncode == 2
    assert agency_history(harbour) == []


@pytest.mark.parametrize(("command", "missing"), [("hold_agency", "SLUG"), ("release_agency", "SLUG")])
def test_a_missing_agency_is_bad_usage(command, missing):
    with pytest.raises(CommandError, match=missing):
        call_command(command)


@pytest.mark.parametrize("reason", ["x" * 501, "a\udcffb"], ids=["too long", "not Unicode"])
def test_an_invalid_reason_is_bad_usage_and_changes_nothing(harbour, reason):
    with pytest.raises(CommandError, match="reason must be a string of at most 500 characters"):
        call_command("hold_agency", "harbour", "--reason", reason)

    assert held_at(harbour) is None


@pytest.mark.parametrize("command", ["hold_agency", "release_agency"])
def test_a_database_error_is_one_line_and_exit_status_1(harbour, monkeypatch, command):
    def fail(*args, **kwargs):
        raise OperationalError

    monkeypatch.setattr(QuerySet, "select_for_update", fail)

    with pytest.raises(CommandError, match=r"harbour: .*Failed to update agency \(agency_update_failed\)") as failed:
        call_command(command, "harbour")

    assert failed.value.returncode == 1


def test_a_hold_that_is_not_certain_to_be_in_force_is_exit_status_1(harbour, monkeypatch, caplog):
    def fail(self, **arguments):
        raise HoldUnconfirmed

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Agency, "hold", fail)

    with pytest.raises(CommandError, match=r"harbour: The agency is on hold, but .* \(hold_unconfirmed\)") as failed:
        call_command("hold_agency", "harbour")

    assert failed.value.returncode == 1
