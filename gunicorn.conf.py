"""Gunicorn's configuration. ``gunicorn agency_backend.wsgi`` reads it when it is started in this folder."""

import ctypes
import gc
import os
from contextlib import suppress
from typing import Any

from django.conf import settings
from gunicorn import glogging

from calls.redaction import WithoutSecrets

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agency_backend.settings")

# Longer than the database's timeout, so that a cancel is answered before its worker is killed, even during shutdown.
timeout = graceful_timeout = int(settings.CANCEL_TIMEOUT) + 30
# A process runs the Python code of one thread at a time: while one parses a large list of contacts, the others wait for
# it. So each core has its own process. Each may use 20 connections to the database and several hundred MB.
workers = int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
# Twice as many as one agency may occupy with slow requests (calls/api/concurrency.py).
threads = 16
# High enough for the API itself to answer a request whose token or query is too long.
limit_request_field_size = 128 * 1024
limit_request_line = 8190
# The default without %(u)s: the user name of Basic authentication may be an API key.
access_log_format = '%(h)s - - %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


# glibc's mallopt() parameter, and its default value.
M_MMAP_THRESHOLD, MMAP_THRESHOLD = -3, 128 * 1024


def post_worker_init(worker: Any) -> None:
    """Make the process return the memory of large requests to the system."""
    # What the application loaded is excluded from garbage collections, so that they take milliseconds.
    gc.collect()
    gc.freeze()
    # Setting the threshold keeps glibc from raising it. Otherwise the buffers of large bodies come from the heap, which
    # grows by a megabyte with each.
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


class Logger(glogging.Logger):  # type: ignore[misc]
    """Gunicorn's logger, with secrets removed from its messages."""

    without_secrets = WithoutSecrets()

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.addFilter(self.without_secrets)


logger_class = Logger
