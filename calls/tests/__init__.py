import pytest

# Or they would say that something is not as it should be, and not what it is instead.
pytest.register_assert_rewrite(
    "calls.tests.support.factories", "calls.tests.support.legacy_database", "calls.tests.support.concurrency"
)
