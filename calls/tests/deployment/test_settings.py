"""Configuration: what is missing, contradictory or left at a demo value is told, with a hint and an id."""

import logging
import os
import runpy
import subprocess
import sys

import pytest
from django.db import OperationalError, connection

from calls.tests.support.factories import ROOT

DEMO_KEY = "demo-only-django-secret-key-known-to-everybody-who-can-read"
DEMO_SECRET = "demo-only-supabase-jwt-secret-of-more-than-32-characters"
DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"
PRODUCTION = {
    "CORS_ALLOWED_ORIGINS": "https://app.example.com",
    "DATABASE_URL": DATABASE,
    "DJANGO_ALLOWED_HOSTS": "api.example.com",
    "DJANGO_SECRET_KEY": "fifty-characters-and-more-of-something-nobody-can-guess-7c1d9b54",
    "SUPABASE_URL": "https://project.supabase.co",
    "ULTRAVOX_API_KEY": "the-provider-s-key",
}


def manage(*arguments, **environment):
    """manage.py in an environment of exactly these variables."""
    return subprocess.run(
        [sys.executable, "-Wd", "manage.py", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def without(*names, **changes):
    return {name: value for name, value in (PRODUCTION | changes).items() if name not in names}


def test_a_deployment_behind_a_tls_proxy_has_nothing_to_be_told():
    check = manage("check", "--deploy", "--fail-level", "DEBUG", **PRODUCTION)

    assert (check.returncode, check.stderr) == (0, "")


def test_a_demo_has_nothing_to_be_told():
    check = manage("check", "--fail-level", "DEBUG", DATABASE_URL=DATABASE, DJANGO_DEBUG="1")

    assert (check.returncode, check.stderr) == (0, "")


def test_what_somebody_searches_for_is_not_in_the_development_servers_log(caplog):
    logger = logging.getLogger("django.server")
    logger.addHandler(caplog.handler)

    logger.info('"%s" %s %s', "GET /admin/calls/callbatch/?q=%2B12125550100 HTTP/1.1", "200", "1234")

    logger.removeHandler(caplog.handler)
    assert caplog.messages == ['"GET /admin/calls/callbatch/ HTTP/1.1" 200 1234']


def test_what_is_set_to_nothing_counts_as_not_set():
    nothing = {"CANCEL_TIMEOUT": "", "LOG_LEVEL": "", "SUPABASE_JWT_ISSUER": "", "SUPABASE_JWT_SECRET": ""}
    script = "from django.conf import settings; print(settings.SIMPLE_JWT['ISSUER'], settings.CANCEL_TIMEOUT)"

    shell = manage("shell", "--no-imports", "--command", script, **without(**nothing))

    assert shell.stdout == "https://project.supabase.co/auth/v1 120.0\n"


def test_demo_values_count_as_not_set_in_production():
    script = "from django.conf import settings; print([settings.SIMPLE_JWT['SIGNING_KEY'], len(settings.SECRET_KEY)])"

    shell = manage(
        *("shell", "--no-imports", "--command", script),
        **without(DJANGO_SECRET_KEY=DEMO_KEY, SUPABASE_JWT_SECRET=DEMO_SECRET),
    )

    assert shell.stdout == "['', 50]\n"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (without(CANCEL_TIMEOUT="soon"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (without(CANCEL_TIMEOUT="0"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (without(CANCEL_TIMEOUT="nan"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (without(LOG_LEVEL="loud"), "(calls.E001) LOG_LEVEL has a value that cannot be used"),
        (without("SUPABASE_URL"), "(calls.E002) No access token can be verified"),
        (without(SUPABASE_URL="project.supabase.co"), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (without(SUPABASE_URL="https://x.supabase.co/auth/v1"), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (without(DJANGO_DEBUG="maybe"), "(calls.E001) DJANGO_DEBUG has a value that cannot be used"),
        (without(SUPABASE_URL="https://["), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (without(SUPABASE_JWT_ISSUER="https://else.example"), "(calls.W004) SUPABASE_JWT_ISSUER is not the issuer"),
        (without(SUPABASE_JWT_SECRET="short"), "(calls.E005) SUPABASE_JWT_SECRET is shorter than 32"),
        (without("DJANGO_SECRET_KEY"), "(calls.E006) DJANGO_SECRET_KEY is not set"),
        (without(DJANGO_SECRET_KEY=DEMO_KEY), "(calls.E007) DJANGO_SECRET_KEY is the demo value"),
        (without(SUPABASE_JWT_SECRET=DEMO_SECRET), "(calls.E007) SUPABASE_JWT_SECRET is the demo value"),
        (without("DJANGO_ALLOWED_HOSTS"), "(calls.E008) DJANGO_ALLOWED_HOSTS is empty"),
        (without("CORS_ALLOWED_ORIGINS"), "(calls.W009) CORS_ALLOWED_ORIGINS is empty"),
        (without(CORS_ALLOWED_ORIGINS="app.example.com"), "(corsheaders.E013)"),
        (without("ULTRAVOX_API_KEY"), "(calls.W017) Calls are simulated: no real call is placed"),
        (without(ULTRAVOX_API_URL="api.ultravox.ai"), "(calls.E018) ULTRAVOX_API_URL is not an http(s) address"),
        (without(ULTRAVOX_TIMEOUT="0"), "(calls.E001) ULTRAVOX_TIMEOUT has a value that cannot be used"),
        (without(RETRY_PAUSE="-1"), "(calls.E001) RETRY_PAUSE has a value that cannot be used"),
        (without(RETRY_PAUSE="59"), "(calls.W020) RETRY_PAUSE is shorter than a minute"),
        (without(ULTRAVOX_TIMEOUT="9"), "(calls.W021) ULTRAVOX_TIMEOUT is shorter than 10 seconds"),
        (without(CRON_SECRET="short"), "(calls.E019) CRON_SECRET is shorter than 32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_told_with_its_id_and_a_hint(environment, told):
    check = manage("check", "--fail-level", "WARNING", **environment)

    assert check.returncode == 1
    assert told in check.stderr
    assert "HINT: " in check.stderr or "corsheaders" in told
    assert "Traceback" not in check.stderr


def test_a_secret_is_not_repeated_where_it_cannot_be_read(tmp_path):
    refused = manage("check", **without(DATABASE_URL="postgresql://user:S3cret/pass@127.0.0.1/x"))
    (tmp_path / ".env").write_text(f"DATABASE_URL={DATABASE}\nSUPABASE_JWT_SECRET: S3cret\n")
    read = settings_of(tmp_path, "settings.INVALID_ENVIRONMENT")

    assert refused.stderr.startswith("Configuration error: DATABASE_URL cannot be read.")
    assert read.stdout == "{'.env': 'Each of its lines is NAME=value, or empty, or begins with #.'}\n"
    assert "S3cret" not in refused.stderr + read.stderr


@pytest.mark.parametrize("url", ["", "mysql://x/y", "nonsense", "postgresql://x:y@z:port/db"])
@pytest.mark.parametrize("command", ["check", "migrate", "cancel_batch"])
def test_without_a_database_one_line_says_what_to_do(command, url):
    refused = manage(command, **without("DATABASE_URL", DATABASE_URL=url) if url else without("DATABASE_URL"))

    assert refused.returncode == 2
    assert refused.stderr.startswith("Configuration error: DATABASE_URL ")
    assert len(refused.stderr.splitlines()) == 1


def settings_of(folder, expression, **environment):
    """What an expression about the settings is, in a copy of the project that has a .env file of its own."""
    (folder / "agency_backend").mkdir()
    for name in ("__init__.py", "settings.py"):
        (folder / "agency_backend" / name).write_text((ROOT / "agency_backend" / name).read_text())
    return subprocess.run(
        [sys.executable, "-c", f"from agency_backend import settings; print({expression})"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path):
    (tmp_path / ".env").write_text(f"DATABASE_URL={DATABASE}\nCANCEL_TIMEOUT=7\nLOG_LEVEL=ERROR\n")

    read = settings_of(tmp_path, "(settings.CANCEL_TIMEOUT, settings.LOG_LEVEL)", LOG_LEVEL="debug")

    assert read.stdout == "(7.0, 'DEBUG')\n"


def test_gunicorn_gives_a_cancel_more_time_than_the_database_does(settings):
    settings.CANCEL_TIMEOUT = 300

    configured = runpy.run_path(str(ROOT / "gunicorn.conf.py"))

    assert configured["timeout"] > 300
    assert configured["graceful_timeout"] > 300


@pytest.mark.django_db
def test_health_is_good_while_the_database_answers(client):
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db
def test_health_is_bad_while_it_does_not(client):
    def fails(execute, sql, params, many, context):
        raise OperationalError

    with connection.execute_wrapper(fails):
        response = client.get("/healthz")

    assert (response.status_code, response.json()) == (503, {"status": "unavailable"})


def test_in_an_incident_without_a_database_the_command_says_so_in_one_line():
    batch_id = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10"
    cancel, with_agency = (
        manage("cancel_batch", batch_id, **PRODUCTION),
        manage("cancel_batch", batch_id, "--agency", "a", **PRODUCTION),
    )

    assert (cancel.returncode, cancel.stdout) == (
        1,
        f"{batch_id}: not cancelled: Failed to update batch status (update_failed)\n",
    )
    assert with_agency.returncode == 1
    # Between the lines of the log.
    assert (
        "CommandError: Failed to read batches (read_failed): the database cannot be reached, nothing is done"
        in with_agency.stderr.splitlines()
    )
    assert "Traceback" not in cancel.stderr + with_agency.stderr
