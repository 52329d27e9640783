"""
Where everything is.

Handlers and the last pattern answer JSON: whoever asks for a path that is nobody's is more likely a program.
"""

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_update
from django.contrib import admin
from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from calls.api import errors as api_errors
from calls.api.views import AlwaysFirst

# Swagger UI's page has a style of its own in it.
docs = csp_update({"style-src": [SELF, UNSAFE_INLINE]})(
    SpectacularSwaggerSplitView.as_view(url_name="schema", content_negotiation_class=AlwaysFirst)
)

urlpatterns = [
    path("functions/v1/", include("calls.api.urls")),
    path("openapi.json", SpectacularJSONAPIView.as_view(content_negotiation_class=AlwaysFirst), name="schema"),
    path("docs", docs, name="docs"),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    # Django's way from an object to its public page: there is none, and it fails on ids that are no numbers.
    re_path("^admin/r/", api_errors.not_found),
    path("admin/", admin.site.urls),
    re_path("", csrf_exempt(api_errors.not_found)),
]

handler400 = api_errors.bad_request
handler404 = api_errors.not_found
handler500 = api_errors.internal_error
