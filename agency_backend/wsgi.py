"""The WSGI entry point: ``gunicorn agency_backend.wsgi``."""

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
    """Django, after what HTTP allows and its request class does not take."""
    try:
        media_type, parameters = parse_header_parameters(environ.get("CONTENT_TYPE", ""))
    except ValueError:
        environ["CONTENT_TYPE"] = ""
    else:
        if "charset" in parameters:
            # Everything here is UTF-8. The request class would read the query in whatever this names, before anybody
            # could answer that there is no such thing.
            environ["CONTENT_TYPE"] = media_type
    chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
    if chunked and environ.get("wsgi.input_terminated") and not environ.get("CONTENT_LENGTH"):
        # A body without a length is what a proxy sends that streams: Django would take it for empty. It is read, up to
        # here, by whoever asks for it, and ends where it ends.
        environ["CONTENT_LENGTH"] = str(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    return django_application(environ, start_response)
