import pytest

from calls.tests.support.legacy_database import legacy_database


@pytest.fixture
def legacy(db):
    """A legacy database that is not adopted yet."""
    with legacy_database() as database:
        yield database


@pytest.fixture(scope="session")
def adopted_template(django_db_setup):
    """The name of an adopted database, to be copied."""
    with legacy_database() as database:
        database.adopt()
        yield database.name


@pytest.fixture
def adopted(adopted_template):
    """A legacy database right after its adoption."""
    with legacy_database(schema="", template=adopted_template) as database:
        yield database
