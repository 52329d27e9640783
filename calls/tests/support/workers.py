"""Real worker processes on the test's database."""

import subprocess
import sys
from contextlib import contextmanager

from calls.tests.support.concurrency import TIMEOUT
from calls.tests.support.factories import ROOT
from calls.tests.support.server import database_url, environment_on


def start_worker(*options, **variables):
    """Start ``manage.py procrastinate worker`` with these options and environment variables."""
    environment = environment_on(database_url(), **variables)
    command = [sys.executable, "manage.py", "procrastinate", "worker", *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def worker(*options, **variables):
    """Run a worker and stop it at the end of the block."""
    process = start_worker(*options, **variables)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            # A worker that is still running would dial the next test's batches.
            process.kill()
