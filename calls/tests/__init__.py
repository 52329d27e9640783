import pytest

# pytest shows the values of a failed assertion only in test modules and in modules that are registered here.
pytest.register_assert_rewrite(
    "calls.tests.support.adoption",
    "calls.tests.support.concurrency",
    "calls.tests.support.factories",
    "calls.tests.support.legacy_database",
)
