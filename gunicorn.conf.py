"""What ``gunicorn agency_backend.wsgi`` reads by itself when it is started here."""

import os
from typing import Any

from django.conf import settings
from gunicorn import glogging

from calls.redaction import WithoutSecrets

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agency_backend.settings")

# A worker that is ended in the middle of a cancel answers nobody: let the database's own limit come first, also when
# the server is told to stop.
timeout = graceful_timeout = int(settings.CANCEL_TIMEOUT) + 30
threads = 8
# A token too long to be one is answered by the API, in its own words, up to here.
limit_request_field_size = 128 * 1024


class Logger(glogging.Logger):  # type: ignore[misc]
    """Gunicorn's own, with no webhook's secret in what it says."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.addFilter(WithoutSecrets())


logger_class = Logger
