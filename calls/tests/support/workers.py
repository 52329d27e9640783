"""Workers as they are started in production, each a process of its own on this test's database."""

import subprocess
import sys
from contextlib import contextmanager

from calls.tests.support.concurrency import PATIENCE
from calls.tests.support.factories import ROOT
from calls.tests.support.server import database_url, environment_on


def start_worker(*options, **variables):
    """``manage.py procrastinate worker``, configured by its environment and these options."""
    environment = environment_on(database_url(), **variables)
    command = [sys.executable, "manage.py", "procrastinate", "worker", *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def worker(*options, **variables):
    process = start_worker(*options, **variables)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            # Or it would go on with the next test's batches.
            process.kill()
