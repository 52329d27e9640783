"""
Where everything is.

Handlers and the last pattern answer JSON: whoever asks for a path that is nobody's is more likely a program.
"""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from agency_backend.health import healthz
from calls import api_errors

urlpatterns = [
    path("functions/v1/", include("calls.urls")),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="schema"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("healthz", healthz),
    re_path("", csrf_exempt(api_errors.not_found)),
]

handler400 = api_errors.bad_request
handler404 = api_errors.not_found
handler500 = api_errors.internal_error
