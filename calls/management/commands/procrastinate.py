"""The library's command, with an exit status that tells a supervisor to start a worker again."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from django.core.management.base import CommandError
from procrastinate.contrib.django.management.commands import procrastinate
from procrastinate.exceptions import ConnectorException

from calls.management.database_errors import can_connect

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Command(procrastinate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        if options["command"] == "worker":
            # The library waits for 30 seconds without a message.
            if not can_connect():
                raise CommandError("the database cannot be reached, so no worker was started")
            # A worker with --one-shot ends by itself.
            if options.get("wait", True):
                options["func"] = partial(_run_until_signal, options["func"])
        # On the handlers, because a logger's filters do not see the records of its children.
        for handler in logging.getLogger().handlers:
            handler.addFilter(_shorten_database_error)
        super().handle(*args, **options)


async def _run_until_signal(run_worker: Callable[..., Coroutine[Any, Any, None]], **options: Any) -> None:
    """
    Run a worker. Exit with 1 if it ends for any other reason than SIGINT or SIGTERM.

    A worker ends when it loses the database. By itself, the library would then exit with 0 if the database is back
    before the worker has stopped.
    """
    loop = asyncio.get_running_loop()
    worker = loop.create_task(run_worker(install_signal_handlers=False, **options))

    def stop() -> None:
        # A second signal ends the process at once.
        for signum in STOP_SIGNALS:
            loop.remove_signal_handler(signum)
        # The worker takes no further job, and ends when its jobs have ended.
        worker.cancel()

    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, stop)
    error: ConnectorException | None = None
    try:
        await worker
    except asyncio.CancelledError:
        return
    except ConnectorException as lost:
        error = lost
    # Without an exception it was a part of the worker that failed, and the library has logged why.
    logger.critical("worker outcome=ended: it lost the database or failed; start it again", exc_info=error)
    sys.exit(1)


def _shorten_database_error(record: logging.LogRecord) -> bool:
    """Log a database error of the queue in one line, without a traceback. The server's message may quote a row."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ConnectorException):
        if record.name == "procrastinate.utils":
            # It repeats what the worker has logged.
            return False
        cause = error.__cause__
        name, sqlstate = type(cause).__name__, getattr(cause, "sqlstate", None)
        message = record.getMessage().splitlines()[0].rstrip(" :")
        record.msg, record.args = f"{message} ({name}, SQLSTATE {sqlstate})", None
        record.exc_info = record.exc_text = None
    return True
