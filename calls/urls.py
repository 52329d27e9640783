from rest_framework.routers import SimpleRouter

from calls.views import CallBatchViewSet

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("", CallBatchViewSet, basename="calls-batch")

urlpatterns = router.urls
