"""The WSGI application: ``gunicorn agency_backend.wsgi``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.utils.http import parse_header_parameters

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agency_backend.settings")

django_application = get_wsgi_application()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Correct valid headers that Django's request class cannot handle, then call Django."""
    try:
        media_type, parameters = parse_header_parameters(environ.get("CONTENT_TYPE", ""))
    except ValueError:
        environ["CONTENT_TYPE"] = ""
    else:
        if "charset" in parameters:
            # Everything here is UTF-8. Django would decode the query string with this charset, and an unknown charset
            # would fail before a view could answer.
            environ["CONTENT_TYPE"] = media_type
    chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    if chunked and environ.get("wsgi.input_terminated") and not environ.get("CONTENT_LENGTH"):
        # A streaming proxy sends the body without a length, and Django would treat it as empty. This is an upper limit:
        # reading stops where the body ends.
        environ["CONTENT_LENGTH"] = str(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    return django_application(environ, start_response)
