"""
The project's URLs.

Unknown paths and errors outside of a view are answered in JSON, because most clients are programs.
"""

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_update
from django.contrib import admin
from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from calls.api import errors as api_errors
from calls.api.base import IgnoreClientContentNegotiation

# Swagger UI's page has an inline style.
docs = csp_update({"style-src": [SELF, UNSAFE_INLINE]})(
    SpectacularSwaggerSplitView.as_view(url_name="schema", content_negotiation_class=IgnoreClientContentNegotiation)
)

urlpatterns = [
    path("functions/v1/", include("calls.api.urls")),
    path(
        "openapi.json",
        SpectacularJSONAPIView.as_view(content_negotiation_class=IgnoreClientContentNegotiation),
        name="schema",
    ),
    path("docs", docs, name="docs"),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    # Disable the admin's "View on site" redirect: no model has a public page, and it fails on ids that are not numbers.
    re_path("^admin/r/", api_errors.not_found),
    path("admin/", admin.site.urls),
    re_path("", csrf_exempt(api_errors.not_found)),
]

handler400 = api_errors.bad_request
handler404 = api_errors.not_found
handler500 = api_errors.internal_error
