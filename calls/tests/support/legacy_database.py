"""Legacy databases: the eight tables as another team created them, to be adopted."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import psycopg
from django.db import connections
from psycopg import sql

from calls.tests.support.factories import ROOT, address
from calls.tests.support.manage import manage

SCHEMA = Path(__file__).with_name("legacy_database.sql").read_text()
# The tables of a Supabase project, which differ more from the app's.
SUPABASE_SCHEMA = Path(__file__).with_name("supabase_database.sql").read_text()
SCHEMAS = {"legacy": SCHEMA, "supabase": SUPABASE_SCHEMA}

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

    def environment(self, **changes):
        return os.environ | {"DATABASE_URL": self.url, "DJANGO_SETTINGS_MODULE": "agency_backend.settings"} | changes

    def start(self, *arguments):
        """Start ``manage.py`` on this database and return the process."""
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def manage(self, *arguments, **environment):
        """Run ``manage.py`` on this database and return its exit code and its output."""
        done = manage(*arguments, environment=self.environment(**environment))
        return done.returncode, done.stdout + done.stderr

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
