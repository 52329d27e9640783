"""The health check."""

from collections.abc import Callable

from django.db import Error, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse


def healthz_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer ``GET /healthz`` before the host is checked, so that it works with any ``Host`` header."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return healthz() if request.path == "/healthz" else get_response(request)

    return middleware


def healthz() -> JsonResponse:
    """Return 200 if the database answers in time, else 503."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '5s'")
            cursor.execute("SELECT 1")
    except Error:
        return JsonResponse({"status": "unavailable"}, status=503)
    return JsonResponse({"status": "ok"})
