"""manage.py set_ultravox_key SLUG: the key comes from standard input and is stored encrypted."""

import io
import logging
import os
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError

from calls.credentials import decrypt
from calls.dialler.accounts import key_problem
from calls.models import Agency
from calls.tests.support.factories import ROOT
from calls.tests.support.server import database_url, environment_on

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "the-key-of-harbour"


@pytest.fixture(autouse=True)
def encrypted(settings):
    settings.CREDENTIALS_KEYS = [Fernet.generate_key().decode()]


@pytest.fixture
def standard_input(monkeypatch):
    """Return a function that sets what standard input contains."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def stored(tenant):
    token = Agency.objects.values_list("ultravox_api_key_encrypted", flat=True).get(pk=tenant.agency.pk)
    return token and bytes(token)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=repr)
def test_it_stores_the_key_encrypted_for_this_agency_alone(harbour, bluebell, run_command, standard_input, end):
    standard_input(SECRET.encode() + end)

    status, lines = run_command("set_ultravox_key", "harbour")

    assert (status, lines) == (0, ["harbour: the Ultravox key is stored. Workers use it within a minute."])
    assert SECRET.encode() not in stored(harbour)
    assert decrypt(stored(harbour)) == SECRET
    assert stored(bluebell) is None
    assert key_problem(harbour.agency.pk) is None


def test_it_removes_the_key(harbour, run_command, standard_input):
    standard_input(SECRET.encode())
    run_command("set_ultravox_key", "harbour")

    status, lines = run_command("set_ultravox_key", "harbour", "--remove")

    assert (status, lines) == (0, ["harbour: the Ultravox key is removed. Workers stop using it within a minute."])
    assert stored(harbour) is None


def test_a_new_key_ends_the_hold_of_the_old_account(harbour, run_command, standard_input):
    Agency.objects.update(dial_after="2999-01-01T00:00Z")
    standard_input(SECRET.encode())

    run_command("set_ultravox_key", "harbour")

    assert Agency.objects.get(pk=harbour.agency.pk).dial_after is None


def test_the_log_names_the_agency_and_the_user_and_not_the_key(harbour, run_command, standard_input, caplog):
    standard_input(SECRET.encode())
    with caplog.at_level(logging.DEBUG):
        run_command("set_ultravox_key", "harbour")

    assert f"set_ultravox_key agency={harbour.agency.pk} source=command actor=os_user:{os.getuid()}" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"two keys", b"two\nkeys", b"k\xc3\xa9y-of-harbour", b"\xff\xfe", b"key\0", b"x" * 501],
    ids=["empty", "blank", "space", "lines", "not ASCII", "not UTF-8", "NUL", "too long"],
)
def test_what_cannot_be_a_key_is_refused_and_not_repeated(harbour, run_command, standard_input, content):
    standard_input(content)

    with pytest.raises(CommandError, match="nothing was changed: key must have 1 to 500 printable ASCII") as raised:
        run_command("set_ultravox_key", "harbour")

    assert raised.value.returncode == 2
    assert "of-harbour" not in str(raised.value)
    assert stored(harbour) is None


def test_an_unknown_agency_is_bad_usage(harbour, run_command, standard_input):
    standard_input(SECRET.encode())

    with pytest.raises(CommandError, match="there is no agency with the slug 'harbor'") as raised:
        run_command("set_ultravox_key", "harbor")

    assert raised.value.returncode == 2


@pytest.mark.parametrize("configured", [[], ["not-a-fernet-key"]], ids=["missing", "malformed"])
def test_without_usable_credentials_keys_nothing_is_stored(harbour, run_command, standard_input, settings, configured):
    settings.CREDENTIALS_KEYS = configured
    standard_input(SECRET.encode())

    with pytest.raises(CommandError, match="CREDENTIALS_KEYS") as raised:
        run_command("set_ultravox_key", "harbour")

    assert raised.value.returncode == 1
    assert stored(harbour) is None


def test_a_terminal_does_not_show_the_key(harbour, settings):
    keyboard, terminal = os.openpty()
    command = subprocess.Popen(
        [sys.executable, "manage.py", "set_ultravox_key", "harbour"],
        cwd=ROOT,
        env=environment_on(database_url(), CREDENTIALS_KEYS=settings.CREDENTIALS_KEYS[0]),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    )
    shown = b""
    # The command asks after it has turned the terminal's echo off.
    while b"Ultravox key: " not in shown:
        shown += os.read(keyboard, 1000)
    os.write(keyboard, SECRET.encode() + b"\n")
    out, _ = command.communicate(timeout=60)
    shown += os.read(keyboard, 1000)
    os.close(terminal)
    os.close(keyboard)

    assert command.returncode == 0
    assert b"is stored" in out
    assert SECRET.encode() not in shown + out
    assert decrypt(stored(harbour)) == SECRET
