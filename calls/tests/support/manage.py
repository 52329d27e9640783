"""
``manage.py`` in a process of its own, without the time that it takes to import Django.

Python's fork server imports the libraries once, and each command runs in a fork of it. Nothing of the project has been
imported there, and no settings have been loaded. A test about the start of Python itself (closed output, warnings)
starts ``manage.py`` with :mod:`subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# What most commands import and what needs no settings. A missing name costs time, and nothing else.
LIBRARIES = """
    asgiref.sync csp.constants django.contrib.admin django.core.management.commands.check
    django.core.management.commands.migrate django.db.backends.postgresql.base django.db.migrations.executor
    django.template.backends.django django_guid.context environ httpx jwt.algorithms logging.config pghistory
    procrastinate psycopg_pool pydantic uritemplate uuid_utils.compat yaml
""".split()

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(LIBRARIES)


def manage(*arguments: str, environment: dict[str, str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` to its end, with exactly these variables in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        process = processes.Process(target=_run, args=(arguments, environment, stdout, stderr))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout, stdout.read_text(), stderr.read_text())
        return subprocess.CompletedProcess(arguments, process.exitcode, stdout.read_text(), stderr.read_text())


def _run(arguments: tuple[str, ...], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = ["manage.py", *arguments]
    runpy.run_path("manage.py", run_name="__main__")
