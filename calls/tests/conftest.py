import os

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connection
from django.db.models import QuerySet
from django.test import Client

from calls import providers
from calls.roles import Role
from calls.tests.support.factories import Tenant, client_of, staff
from calls.tests.support.legacy_database import LEGACY_TABLES, legacy_database
from calls.tests.support.provider import KEY, fake_provider

# Fixtures that start a server, a browser or a large database for all tests of a module.
SHARED_FIXTURES = {"window", "server", "adopted_template", "_many_rows", "stopped_server"}


def pytest_xdist_auto_num_workers(config):
    """Run more workers than there are processors: tests wait more than they compute."""
    return min(2 * os.cpu_count(), 8)


def pytest_addoption(parser):
    parser.addoption("--adopted", action="store_true", help="run the tests on an adopted legacy database")


def pytest_collection_modifyitems(config, items):
    if config.getoption("adopted"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("not_adopted")])
        items[:] = [item for item in items if not item.get_closest_marker("not_adopted")]
    # One worker runs all tests that share such a fixture, so that it is set up once.
    for item in items:
        for fixture in SHARED_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__} {fixture}"))
    # Start long tests early, so that no worker is left with one at the end. Tests with transaction=True stay behind the
    # others, because they truncate the tables, which deletes the rows that migrations inserted.
    items.sort(key=lambda item: (_truncates(item), not item.get_closest_marker("slow")))


def _truncates(item):
    marker = item.get_closest_marker("django_db")
    return bool(marker and marker.kwargs.get("transaction"))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request, django_db_blocker, django_db_modify_db_settings_parallel_suffix):
    """With ``--adopted``, create the test databases as copies of an adopted legacy database."""
    if not request.config.getoption("adopted"):
        yield
        return
    with legacy_database() as template:
        with django_db_blocker.unblock():
            template.adopt()
        template.query(f"TRUNCATE {', '.join(sorted(LEGACY_TABLES))}")
        connection.settings_dict["TEST"]["TEMPLATE"] = template.name
        yield


@pytest.fixture
def harbour(db):
    """The agency that most tests use."""
    return Tenant.create("harbour")


@pytest.fixture
def bluebell(db):
    """Another agency, whose batches Harbour must not see."""
    return Tenant.create("bluebell")


@pytest.fixture
def owner(harbour):
    """An API client that is signed in as Harbour's owner."""
    return client_of(harbour.users[Role.AGENCY_OWNER])


@pytest.fixture
def operator(db):
    """A staff user in the group "Call operators"."""
    user = staff("operator")
    user.groups.add(Group.objects.get(name="Call operators"))
    return user


@pytest.fixture
def admin(operator):
    """A browser session in the admin as ``operator``, behind a proxy that terminates TLS."""
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(operator)
    return client


@pytest.fixture
def without_lock(monkeypatch):
    """For controls: ``select_for_update()`` locks nothing."""
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, *args, **kwargs: self)


@pytest.fixture
def without_guards(db):
    """For controls: the database's guards are disabled."""

    def alter(state):
        with connection.cursor() as cursor:
            for table in ("call_batches", "campaign_contacts"):
                cursor.execute(f"ALTER TABLE {table} {state} TRIGGER USER")

    alter("DISABLE")
    yield
    alter("ENABLE")


@pytest.fixture
def provider():
    """The fake voice provider. The settings do not point to it."""
    with fake_provider() as running:
        yield running


@pytest.fixture
def ultravox(provider, settings):
    """The fake voice provider, as the one that the dialler uses."""
    settings.ULTRAVOX_API_URL, settings.ULTRAVOX_API_KEY = provider.url, KEY
    providers._create_provider.cache_clear()
    yield provider
    providers.get_provider().close()
    providers._create_provider.cache_clear()


@pytest.fixture
def empty_queue(db):
    """Delete the jobs and workers of earlier tests. Django does not truncate procrastinate's tables between tests."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")


@pytest.fixture
def run_command(capsys):
    """Run a management command. Return its exit status and the lines that it printed."""

    def run(*arguments):
        try:
            call_command(*map(str, arguments))
            status = 0
        except SystemExit as exit_:
            status = exit_.code
        return status, capsys.readouterr().out.splitlines()

    return run
