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
from calls.tests.support.provider import KEY, provider_running

# Module fixtures that take seconds to start.
SHARED_SERVERS = {"window", "server", "once_adopted", "_hundred_thousand"}


def pytest_xdist_auto_num_workers(config):
    """Run more workers than processors, because many tests wait."""
    return min(2 * os.cpu_count(), 8)


def pytest_addoption(parser):
    parser.addoption("--adopted", action="store_true", help="run on tables that another team has made")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("adopted"):
        for item in items:
            if item.get_closest_marker("own_tables"):
                item.add_marker(pytest.mark.skip(reason="another team's tables are different in this"))
    # One worker starts the browser, or the web server, for all tests that share it.
    for item in items:
        for fixture in SHARED_SERVERS & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(fixture))
    # Long tests first, so that no worker is left with one at the end.
    items.sort(key=lambda item: not item.get_closest_marker("slow"))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request, django_db_modify_db_settings_parallel_suffix):
    """With ``--adopted`` the databases of the tests are copies of one that was adopted."""
    if not request.config.getoption("adopted"):
        yield
        return
    with legacy_database() as template:
        template.adopt()
        template.query(f"TRUNCATE {', '.join(sorted(LEGACY_TABLES))}")
        connection.settings_dict["TEST"]["TEMPLATE"] = template.name
        yield


@pytest.fixture
def harbour(db):
    """The agency whose batches the tests cancel."""
    return Tenant.create("harbour")


@pytest.fixture
def bluebell(db):
    """Another agency, whose batches are none of Harbour's business."""
    return Tenant.create("bluebell")


@pytest.fixture
def owner(harbour):
    """The API as Harbour's owner sees it."""
    return client_of(harbour.users[Role.AGENCY_OWNER])


@pytest.fixture
def operator(db):
    """A member of the staff, in the group that may look at batches and cancel them."""
    user = staff("operator")
    user.groups.add(Group.objects.get(name="Call operators"))
    return user


@pytest.fixture
def admin(operator):
    """The admin as the operator sees it, through a proxy that ends TLS."""
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(operator)
    return client


@pytest.fixture
def without_lock(monkeypatch):
    """A control: whoever reads a batch in order to change it does not lock it."""
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, *args, **kwargs: self)


@pytest.fixture
def without_guards(db):
    """A control: the database's guards are switched off."""

    def alter(state):
        with connection.cursor() as cursor:
            for table in ("call_batches", "campaign_contacts"):
                cursor.execute(f"ALTER TABLE {table} {state} TRIGGER USER")

    alter("DISABLE")
    yield
    alter("ENABLE")


@pytest.fixture
def provider():
    """The voice provider's stand-in, which nobody calls yet."""
    with provider_running() as running:
        yield running


@pytest.fixture
def ultravox(provider, settings):
    """The stand-in, as the provider that calls are placed with."""
    settings.ULTRAVOX_API_URL, settings.ULTRAVOX_API_KEY = provider.url, KEY
    providers._create_provider.cache_clear()
    yield provider
    providers.get_provider().close()
    providers._create_provider.cache_clear()


@pytest.fixture
def empty_queue(db):
    """No jobs, and no workers that an earlier test has had: these tables are not emptied with the others."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")


@pytest.fixture
def run_command(capsys):
    """Run a command; its exit status and the lines it printed."""

    def run(*arguments):
        try:
            call_command(*map(str, arguments))
            status = 0
        except SystemExit as exit_:
            status = exit_.code
        return status, capsys.readouterr().out.splitlines()

    return run
