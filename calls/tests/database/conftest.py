import pytest

from calls.tests.support.legacy_database import SCHEMAS, SUPABASE_SCHEMA, legacy_database


@pytest.fixture
def legacy(db):
    """A legacy database that is not adopted yet."""
    with legacy_database() as database:
        yield database


@pytest.fixture(params=SCHEMAS)
def foreign(request, db):
    """A database that is not adopted yet, of each schema."""
    with legacy_database(schema=SCHEMAS[request.param]) as database:
        yield database


@pytest.fixture
def supabase(db):
    """A Supabase project's database that is not adopted yet."""
    with legacy_database(schema=SUPABASE_SCHEMA) as database:
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
