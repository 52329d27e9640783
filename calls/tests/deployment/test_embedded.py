"""python -m agency_backend.embedded: the server is there while the command runs, and gone when it has ended."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from calls.tests.support.factories import ROOT

SAY_AND_SLEEP = "import os, time; print(os.environ['DATABASE_URL'], flush=True); time.sleep(60)"
SAY = "import os; print(os.environ['DATABASE_URL'])"


def servers(data):
    """The running PostgreSQL servers of this data directory."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline", "status"])
        if process.info["name"] == "postgres"
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(data) in argument for argument in process.info["cmdline"] or ())
    ]


class Project:
    """A clone with nothing in it but what starts the database."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / ".postgres"
        shutil.copytree(ROOT / "agency_backend", folder / "agency_backend")

    def start(self, *command, options=(), **popen):
        return subprocess.Popen(
            [sys.executable, "-m", "agency_backend.embedded", *options, "--", *command],
            cwd=self.folder,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | popen,
        )

    def run(self, *command, options=()):
        with self.start(*command, options=options) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output.splitlines()[-1] if output else ""


def first_url(process):
    for line in process.stdout:
        if line.startswith("postgresql://"):
            return line.strip()
    raise AssertionError("it ended without a database")


@pytest.fixture
def project(request):
    """A project in a folder of its own; the marker ``folder`` names one that is awkward."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent).resolve() / getattr(request, "param", "project")
        folder.mkdir()
        project = Project(folder)
        yield project
        for server in servers(folder):
            server.kill()


@pytest.mark.parametrize(
    "project", ["project", "My Projects", "a" * 120], indirect=True, ids=["plain", "space", "long"]
)
def test_the_command_finds_a_database_and_the_server_is_gone_afterwards(project):
    script = f"{SAY}; import psycopg; psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 1'); print('found')"

    assert project.run(sys.executable, "-Wignore", "-c", script) == (0, "found")
    assert servers(project.data) == []


def test_the_data_is_kept(project):
    script = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True).execute(%r)"
    create, insert = "CREATE TABLE kept (a int)", "INSERT INTO kept VALUES (1)"

    assert project.run(sys.executable, "-Wignore", "-c", script % create)[0] == 0
    assert project.run(sys.executable, "-Wignore", "-c", script % insert)[0] == 0


def test_its_exit_status_is_the_commands_own(project):
    assert project.run("sh", "-c", "exit 7")[0] == 7
    assert project.run("sh", "-c", "kill -9 $$")[0] == 128 + 9


def test_a_command_that_is_not_there_is_said_to_be_so(project):
    assert project.run("no-such-command") == (127, "no-such-command: command not found")
    assert servers(project.data) == []


def test_temporary_data_is_thrown_away(project):
    status, url = project.run(sys.executable, "-c", SAY, options=["--temporary"])

    assert status == 0
    assert not Path(re.search(r"host=(.*)", url)[1]).exists()
    assert not project.data.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
def test_a_signal_ends_the_command_and_all_it_started_and_the_server(project, signum):
    # A shell that waits for a program: what ``make run`` is made of.
    with project.start("sh", "-c", f'"{sys.executable}" -c "{SAY_AND_SLEEP}"; exit 3') as process:
        first_url(process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signum)
        process.communicate(timeout=20)

    assert process.returncode != 0
    assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []
    assert servers(project.data) == []


def test_ctrl_c_in_a_terminal_ends_it_quickly(project):
    terminal, side = pty.openpty()
    process = project.start(
        *(sys.executable, "-c", SAY_AND_SLEEP), stdin=side, stdout=side, stderr=side, preexec_fn=controls(side)
    )
    os.close(side)
    shown = b""
    while b"postgresql://" not in shown:
        shown += os.read(terminal, 1000)
    started = time.monotonic()
    os.write(terminal, b"\x03")
    process.wait(20)
    os.close(terminal)

    assert time.monotonic() - started < 5
    assert servers(project.data) == []


def controls(side):
    """Make this terminal the controlling one of a new session, as a terminal emulator does."""

    def take_control():
        os.setsid()
        os.close(os.open(os.ttyname(side), os.O_RDWR))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return take_control


def test_a_second_one_joins_and_the_last_one_stops_the_server(project):
    with project.start(sys.executable, "-c", SAY_AND_SLEEP) as first:
        url = first_url(first)
        assert project.run(sys.executable, "-c", SAY) == (0, url)
        assert len(servers(project.data)) >= 1
        first.terminate()
        first.communicate(timeout=20)

    assert servers(project.data) == []


def test_after_one_that_was_killed_a_later_one_still_stops_the_server(project):
    with project.start(sys.executable, "-c", SAY_AND_SLEEP) as killed:
        url = first_url(killed)
        (child,) = psutil.Process(killed.pid).children()
        killed.kill()
        child.kill()
        killed.communicate(timeout=20)
    assert psycopg.connect(url).close() is None

    assert project.run(sys.executable, "-c", SAY) == (0, url)
    assert servers(project.data) == []


def test_after_the_server_itself_was_killed_it_starts_again(project):
    with project.start(sys.executable, "-c", SAY_AND_SLEEP) as process:
        url = first_url(process)
        for server in servers(project.data):
            server.kill()
        process.terminate()
        process.communicate(timeout=20)

    assert project.run(sys.executable, "-c", SAY) == (0, url)
