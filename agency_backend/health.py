"""Whether the application can do its work."""

from collections.abc import Callable

from django.db import Error, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse


def healthz_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """``GET /healthz``, by whatever name the host is called: 200 while the database answers in time, else 503."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return healthz() if request.path == "/healthz" else get_response(request)

    return middleware


def healthz() -> JsonResponse:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '5s'")
            cursor.execute("SELECT 1")
    except Error:
        return JsonResponse({"status": "unavailable"}, status=503)
    return JsonResponse({"status": "ok"})
