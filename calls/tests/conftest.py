import os

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.test import Client, TransactionTestCase
from xdist.scheduler import LoadScopeScheduling

from calls.dialler import accounts
from calls.roles import Role
from calls.tests.support.factories import Tenant, client_of, staff
from calls.tests.support.legacy_database import LEGACY_TABLES, SCHEMAS, legacy_database
from calls.tests.support.provider import KEY, fake_provider
from calls.tests.support.truncation import truncate_tables
from calls.tests.support.unlocked import unlocked

# Modules whose tests share a server, a browser or a large database.
SHARED_SETUP = {
    "calls/tests/admin/test_browser.py",
    "calls/tests/database/test_adoption_missing_tables.py",
    "calls/tests/database/test_dialler_plans.py",
    "calls/tests/database/test_plans.py",
    "calls/tests/deployment/test_broken_requests.py",
    "calls/tests/deployment/test_embedded.py",
    "calls/tests/deployment/test_pgbouncer.py",
    "calls/tests/deployment/test_server.py",
}


def pytest_xdist_auto_num_workers(config):
    """Run more workers than there are processors: tests wait more than they compute."""
    return min(2 * os.cpu_count(), 8)


def pytest_addoption(parser):
    parser.addoption(
        "--adopted", nargs="?", const="legacy", choices=SCHEMAS, help="run the tests on an adopted database"
    )


class Scheduling(LoadScopeScheduling):
    """Send the tests of a module in ``SHARED_SETUP`` to the same worker, and every other test to a free worker."""

    def _split_scope(self, nodeid):
        module = nodeid.partition("::")[0]
        return module if module in SHARED_SETUP else nodeid


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_collection_modifyitems(config, items):
    if config.getoption("adopted"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("not_adopted")])
        items[:] = [item for item in items if not item.get_closest_marker("not_adopted")]
    # Start long tests early, so that at the end no worker is still busy with a long test.
    items.sort(key=lambda item: not item.get_closest_marker("slow"))


@pytest.fixture(scope="session", autouse=True)
def _truncate_after_tests():
    """
    After a test with ``transaction=True``, truncate only the tables that have rows.

    Django's ``flush`` truncates all tables and creates content types and permissions again, which takes more time than
    most tests. It would also delete the group that a migration created, which later tests need.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda self: truncate_tables())
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request, django_db_modify_db_settings_parallel_suffix):
    """With ``--adopted``, create the test databases as copies of an adopted legacy database."""
    schema = request.config.getoption("adopted")
    if not schema:
        yield
        return
    with legacy_database(schema=SCHEMAS[schema]) as template:
        template.adopt()
        template.query(f"TRUNCATE {', '.join(sorted(LEGACY_TABLES))} CASCADE")
        # The factories create no clients.
        for table in ("users", "campaigns"):
            template.query(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_client_id_fkey")
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
    """For controls: no row is locked."""
    execute = CursorWrapper.execute
    monkeypatch.setattr(CursorWrapper, "execute", lambda self, sql, params=None: execute(self, unlocked(sql), params))


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
    """The fake voice provider. The settings point to it, so the dialler uses it."""
    settings.ULTRAVOX_API_URL, settings.ULTRAVOX_API_KEY = provider.url, KEY
    yield provider
    # Without accounts there is no client, so the provider does not wait for its connections.
    accounts._ACCOUNTS.clear()


@pytest.fixture
def empty_queue(db):
    """
    Delete the jobs and workers of earlier tests.

    ``truncate_tables`` does not empty their tables, because procrastinate's models are not managed.
    """
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
