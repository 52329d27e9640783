"""The application behind PgBouncer in transaction mode, where each transaction may use another connection."""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from calls import tasks
from calls.api.authentication import issue_token
from calls.models import Call, CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.concurrency import until
from calls.tests.support.factories import FUNCTIONS, URL, address, count
from calls.tests.support.manage import manage
from calls.tests.support.provider import KEY
from calls.tests.support.server import environment_on, free_port, gunicorn, request, wait_until_it_listens
from calls.tests.support.workers import worker

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")

pytestmark = [
    pytest.mark.skipif(PGBOUNCER is None, reason="no PgBouncer: install Debian's package pgbouncer"),
    pytest.mark.django_db(transaction=True),
]

CONFIGURATION = """
[databases]
{dbname} = host={host} port={port} dbname={dbname} user={user}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = 3
auth_type = any
"""


@contextmanager
def pgbouncer(folder):
    """Run PgBouncer in front of the test database, and yield the database's URL through it."""
    port = free_port()
    where = {"port": 5432} | address()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(listen_port=port, **where))
    folder.chmod(0o755)
    # PgBouncer refuses to run as root. The user of the database server can read the folder of its socket.
    socket_folder = Path(where["host"])
    unprivileged = ["--user", socket_folder.owner() if socket_folder.is_dir() else "nobody"] if os.getuid() == 0 else []
    process = subprocess.Popen([PGBOUNCER, "--quiet", *unprivileged, str(configuration)])
    try:
        wait_until_it_listens(port)
        yield f"postgresql://{where['user']}@127.0.0.1:{port}/{where['dbname']}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def url(django_db_setup, tmp_path_factory):
    with pgbouncer(tmp_path_factory.mktemp("pgbouncer")) as url:
        yield url


@pytest.fixture(scope="module")
def server(url):
    with gunicorn(url) as server:
        yield server


def cancel_by_request(server, owner, batch):
    return request(
        server, "POST", URL, json.dumps({"batch_id": str(batch.pk)}), Authorization=f"Bearer {issue_token(owner)}"
    )


def test_many_requests_at_once_share_few_connections_and_every_batch_is_cancelled(harbour, server):
    batches = [harbour.batch(queued=3) for _ in range(40)]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda batch: cancel_by_request(server, harbour.owner, batch), batches))

    assert {(status, answer["contacts_skipped"]) for status, _, answer in answers} == {(200, 3)}
    assert set(CallBatch.objects.values_list("status", flat=True)) == {BatchStatus.CANCELLED}
    assert {event.pgh_context["via"] for batch in batches for event in batch.events.filter(status="cancelled")} == {
        "api"
    }


def test_the_timeouts_and_the_history_context_of_a_cancel_end_with_its_transaction(harbour, server, url):
    cancel_by_request(server, harbour.owner, harbour.batch(queued=3))

    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
        for _ in range(5):
            assert other.execute("SHOW lock_timeout").fetchone() == ("0",)
            (context,) = other.execute("SELECT current_setting('pghistory.context_metadata', true)").fetchone()
            assert context in ("", None)


def test_a_cancel_stops_waiting_for_a_lock_after_its_timeout(harbour, server):
    batch = harbour.batch(queued=3)

    with psycopg.connect(**address()) as holder:
        holder.execute("SELECT 1 FROM call_batches WHERE id = %s FOR UPDATE", [batch.pk])
        status, _, answer = cancel_by_request(server, harbour.owner, batch)
        holder.rollback()

    assert (status, answer["code"]) == (500, "update_failed")
    assert count(batch, ContactStatus.QUEUED) == 3


def test_many_creates_at_once_share_few_connections_and_each_stores_its_own_contacts(harbour, server):
    bodies = [
        json.dumps(harbour.create_body(*(f"+1212{index:03d}{line:04d}" for line in range(100)))) for index in range(20)
    ]

    with ThreadPoolExecutor(10) as pool:
        token = issue_token(harbour.owner)
        answers = list(
            pool.map(
                lambda body: request(server, "POST", f"{FUNCTIONS}create", body, Authorization=f"Bearer {token}"),
                bodies,
            )
        )

    assert {(status, answer["total_contacts"]) for status, _, answer in answers} == {(201, 100)}
    assert {batch.contacts.values("phone_number").distinct().count() for batch in CallBatch.objects.all()} == {100}


@pytest.mark.usefixtures("empty_queue")
def test_workers_share_few_connections_and_place_each_call_once(harbour, provider, url):
    batch = harbour.batch(BatchStatus.PENDING, pending=20)
    CallBatch.objects.filter(pk=batch.pk).update(max_concurrent=20)
    configuration = {"DATABASE_URL": url, "ULTRAVOX_API_URL": provider.url, "ULTRAVOX_API_KEY": KEY}

    with worker(**configuration), worker(**configuration):
        tasks.dial_due_batches(0)
        until(lambda: Call.objects.count() == 20)

    assert len({asked.attempt for asked in provider.asked}) == len(provider.asked) == 20


def test_the_commands_work(harbour, url):
    batch = harbour.batch(queued=3)

    for command in (
        ("check", "--database", "default"),
        ("repair_database",),
        ("pause_batch", str(batch.pk)),
        ("export_batch", str(batch.pk)),
        ("cancel_batch", str(batch.pk)),
    ):
        done = manage(*command, environment=environment_on(url))
        assert done.returncode == 0, done.stdout + done.stderr
    assert count(batch, ContactStatus.SKIPPED) == 3
