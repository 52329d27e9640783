"""python -m agency_backend.embedded: the server runs while the command runs, and stops when it ends."""

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

PRINT_URL = "import os; print(os.environ['DATABASE_URL'])"
PRINT_URL_AND_SLEEP = "import os, time; print(os.environ['DATABASE_URL'], flush=True); time.sleep(60)"


def servers(data):
    """Return the running PostgreSQL servers of this data directory."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline", "status"])
        if process.info["name"] == "postgres"
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(data) in argument for argument in process.info["cmdline"] or ())
    ]


class Project:
    """A copy of the project that has only ``agency_backend``."""

    def __init__(self, folder):
        folder.mkdir()
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
    raise AssertionError("the command ended without a database")


def kill_servers(folder):
    """Kill the servers that a failed test has left running."""
    leftover = servers(folder)
    for server in leftover:
        server.kill()
    psutil.wait_procs(leftover, timeout=10)


@pytest.fixture
def folder():
    """An empty folder for a new project."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        yield folder
        kill_servers(folder)


@pytest.fixture(scope="module")
def shared_project():
    with tempfile.TemporaryDirectory() as name:
        yield Project(Path(name).resolve() / "project")


@pytest.fixture
def project(shared_project):
    """A project whose server is stopped. The tests share it, because a new data directory takes a second."""
    yield shared_project
    kill_servers(shared_project.folder)


@pytest.mark.parametrize("name", ["project", "My Projects", "a" * 120], ids=["plain", "space", "long"])
def test_the_command_has_a_database_and_the_server_is_stopped_afterwards(folder, name):
    project = Project(folder / name)
    connect = "import psycopg; psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 1'); print('connected')"

    assert project.run(sys.executable, "-Wignore", "-c", f"{PRINT_URL}; {connect}") == (0, "connected")
    assert servers(project.data) == []


def test_the_data_is_kept(project):
    script = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'], autocommit=True).execute(%r)"
    create, insert = "CREATE TABLE kept (a int)", "INSERT INTO kept VALUES (1)"

    assert project.run(sys.executable, "-Wignore", "-c", script % create)[0] == 0
    assert project.run(sys.executable, "-Wignore", "-c", script % insert)[0] == 0


def test_the_exit_status_is_that_of_the_command(project):
    assert project.run("sh", "-c", "exit 7")[0] == 7
    assert project.run("sh", "-c", "kill -9 $$")[0] == 128 + 9


def test_a_command_that_does_not_exist_is_reported(project):
    assert project.run("no-such-command") == (127, "no-such-command: command not found")
    assert servers(project.data) == []


def test_temporary_data_is_deleted(folder):
    project = Project(folder / "project")

    status, url = project.run(sys.executable, "-c", PRINT_URL, options=["--temporary"])

    assert status == 0
    assert not Path(re.search(r"host=(.*)", url)[1]).exists()
    assert not project.data.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
def test_a_signal_ends_the_command_all_its_processes_and_the_server(project, signum):
    # A shell that waits for a program, as in "make run".
    with project.start("sh", "-c", f'"{sys.executable}" -c "{PRINT_URL_AND_SLEEP}"; exit 3') as process:
        first_url(process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signum)
        process.communicate(timeout=20)

    assert process.returncode != 0
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert servers(project.data) == []


def test_ctrl_c_in_a_terminal_ends_the_command_quickly(project):
    terminal, tty = pty.openpty()
    process = project.start(
        *(sys.executable, "-c", PRINT_URL_AND_SLEEP), stdin=tty, stdout=tty, stderr=tty, preexec_fn=take_control_of(tty)
    )
    os.close(tty)
    output = b""
    while b"postgresql://" not in output:
        output += os.read(terminal, 1000)
    started = time.monotonic()
    os.write(terminal, b"\x03")
    process.wait(20)
    os.close(terminal)

    assert time.monotonic() - started < 5
    assert servers(project.data) == []


def take_control_of(tty):
    """Return a function that starts a session with this controlling terminal, as a terminal emulator does."""

    def take_control():
        os.setsid()
        os.close(os.open(os.ttyname(tty), os.O_RDWR))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return take_control


def test_two_commands_share_the_server_and_the_last_one_stops_it(project):
    with project.start(sys.executable, "-c", PRINT_URL_AND_SLEEP) as first:
        url = first_url(first)
        assert project.run(sys.executable, "-c", PRINT_URL) == (0, url)
        assert len(servers(project.data)) >= 1
        first.terminate()
        first.communicate(timeout=20)

    assert servers(project.data) == []


def test_the_next_run_stops_the_server_of_a_run_that_was_killed(project):
    with project.start(sys.executable, "-c", PRINT_URL_AND_SLEEP) as killed:
        url = first_url(killed)
        (child,) = psutil.Process(killed.pid).children()
        killed.kill()
        child.kill()
        killed.communicate(timeout=20)
    assert psycopg.connect(url).close() is None

    assert project.run(sys.executable, "-c", PRINT_URL) == (0, url)
    assert servers(project.data) == []


def test_the_next_run_starts_a_server_that_was_killed(project):
    with project.start(sys.executable, "-c", PRINT_URL_AND_SLEEP) as process:
        url = first_url(process)
        for server in servers(project.data):
            server.kill()
        process.terminate()
        process.communicate(timeout=20)

    assert project.run(sys.executable, "-c", PRINT_URL) == (0, url)
