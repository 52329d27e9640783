"""The WSGI application: ``gunicorn agency_backend.wsgi``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.wsgi import get_wsgi_application
from django.utils.http import parse_header_parameters
from gunicorn.http.errors import ParseException

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agency_backend.settings")

django_application = get_wsgi_application()

# How much of a chunked body the API reads. It is more than the longest body that is accepted (16 MB), so that a client
# that sends too much can still read the answer.
MAX_API_BODY_BYTES = 32 * 1024 * 1024


class RequestBody:
    """
    The body of a request, as Django reads it. If it is broken or incomplete, the request is answered with 400.

    The server finds a malformed chunk only now, and raises an exception that Django would answer with 500.
    """

    def __init__(self, stream: Any, *, has_length: bool) -> None:
        self._stream = stream
        self._has_length = has_length

    def read(self, size: int) -> bytes:
        """
        :param size: at most what the body's length has left, which Django sees to.
        :raises BadRequest: the body is malformed, or the client disconnected before it had sent all of it.
        """
        data = self._call(self._stream.read, size)
        if self._has_length and len(data) < size:
            raise BadRequest("incomplete body")
        return data

    def readline(self, size: int) -> bytes:
        """:raises BadRequest: see :meth:`read`."""
        return self._call(self._stream.readline, size)

    @staticmethod
    def _call(read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except (ParseException, OSError):
            raise BadRequest("malformed or incomplete body") from None


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Correct what Django's request class cannot handle in headers and bodies, then call Django."""
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
        is_api = environ["PATH_INFO"].startswith("/functions/")
        environ["CONTENT_LENGTH"] = str(MAX_API_BODY_BYTES if is_api else settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    environ["wsgi.input"] = RequestBody(environ["wsgi.input"], has_length=not chunked)
    return django_application(environ, start_response)
