"""Real worker processes on the test's database."""

import subprocess
import sys
from contextlib import contextmanager

from calls.tests.support.concurrency import TIMEOUT
from calls.tests.support.factories import ROOT
from calls.tests.support.server import database_url, environment_on


def start_worker(*options, log=None, **variables):
    """Start ``manage.py procrastinate worker`` with these options, log file and environment variables."""
    environment = environment_on(database_url(), **variables)
    command = [sys.executable, "manage.py", "procrastinate", "worker", *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log)


@contextmanager
def worker(*options, log=None, **variables):
    """Run a worker and stop it at the end of the block."""
    process = start_worker(*options, log=log, **variables)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            # A worker that is still running would dial the next test's batches.
            process.kill()
