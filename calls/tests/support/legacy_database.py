"""Legacy databases: the eight tables as another team created them, to be adopted."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import psycopg
from django.contrib.contenttypes.models import ContentType
from django.core.management import ManagementUtility
from django.db import connections
from psycopg import sql

from calls.tests.support.factories import ROOT, address

SCHEMA = Path(__file__).with_name("legacy_database.sql").read_text()

LEGACY_TABLES = {
    "agencies",
    "agency_phone_numbers",
    "agent_mappings",
    "call_batches",
    "calls",
    "campaign_contacts",
    "campaigns",
    "users",
}


class Database:
    """A separate database on the test server, with the app's commands run on it."""

    def __init__(self, name):
        self.name = name
        self.where = address() | {"dbname": name}

    @property
    def url(self):
        return self.url_for(self.where["user"])

    def url_for(self, user):
        where = {"host": "", "port": 5432} | self.where
        return f"postgresql://{user}@/{self.name}?host={where['host']}&port={where['port']}"

    def connect(self, **options):
        return psycopg.connect(autocommit=True, **self.where, **options)

    def query(self, query, *parameters):
        """Run a statement and return its rows, or None if it has no result."""
        with self.connect() as plain:
            cursor = plain.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else None

    def start(self, *arguments, **environment):
        """Start ``manage.py`` on this database and return the process."""
        settings = {"DATABASE_URL": self.url, "DJANGO_SETTINGS_MODULE": "agency_backend.settings"}
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=os.environ | settings | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **environment):
        """Run ``manage.py`` on this database as a process. Return its exit code and its output, with its log."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def manage(self, name, *arguments):
        """Run a command on this database in this process, which is faster. Return its exit code and its output."""
        code, output = 0, io.StringIO()
        with self.as_default(), redirect_stdout(output), redirect_stderr(output):
            try:
                ManagementUtility().fetch_command(name).run_from_argv(["manage.py", name, *arguments])
            except SystemExit as exit_:
                code = exit_.code
        return code, output.getvalue()

    @contextmanager
    def as_default(self):
        """Make this the default database of the process for the duration of the context."""
        own = connections["default"]
        options = {name: value for name, value in own.settings_dict["OPTIONS"].items() if name != "pool"}
        connections["default"] = type(own)(own.settings_dict | {"NAME": self.name, "OPTIONS": options}, "default")
        try:
            yield
        finally:
            connections["default"].close()
            connections["default"] = own
            # The ids of content types differ between databases.
            ContentType.objects.clear_cache()

    def adopt(self):
        code, output = self.manage("migrate", "--fake-initial", "--verbosity", "0")
        assert code == 0, output


@contextmanager
def legacy_database(*changes, schema=SCHEMA, template="template1"):
    """Create a database from the template, run the schema and the changes on it, and drop it at the end."""
    database = Database(f"legacy_{uuid.uuid4().hex}")
    name = sql.Identifier(database.name)
    with psycopg.connect(autocommit=True, **address()) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(template)))
    try:
        database.query(schema)
        for change in changes:
            database.query(change)
        yield database
    finally:
        # A new connection: some tests terminate all connections to the test database.
        with psycopg.connect(autocommit=True, **address()) as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
