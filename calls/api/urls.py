from django.urls import re_path
from rest_framework.routers import SimpleRouter

from calls.api.views import AgencyViewSet, CallBatchViewSet, ProcessViewSet
from calls.api.webhooks import WebhookViewSet

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("", CallBatchViewSet, basename="calls-batch")
router.register("", AgencyViewSet, basename="calls-agency")
router.register("", ProcessViewSet, basename="calls-batch-process")

urlpatterns = [
    *router.urls,
    # A secret may contain slashes, but a URL that ends with a slash gets 404.
    re_path(
        r"^webhook-ingest/(?P<agency_id>[^/]+)/(?P<secret>.*[^/])$",
        WebhookViewSet.as_view({"post": "ingest"}),
        name="webhook-ingest",
    ),
]
