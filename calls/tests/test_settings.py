"""Configuration: what is missing, contradictory or left at a demo value is told, with a hint and an id."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import OperationalError, connection

ROOT = Path(__file__).resolve().parent.parent.parent
DATABASE = "postgresql://nobody@127.0.0.1:1/nothing"
PRODUCTION = {
    "CORS_ALLOWED_ORIGINS": "https://app.example.com",
    "DATABASE_URL": DATABASE,
    "DJANGO_ALLOWED_HOSTS": "api.example.com",
    "DJANGO_SECRET_KEY": "fifty-characters-and-more-of-something-nobody-can-guess-7c1d9b54",
    "SUPABASE_URL": "https://project.supabase.co",
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


DEMO_KEY = "demo-only-django-secret-key-known-to-everybody-who-can-read"
DEMO_SECRET = "demo-only-supabase-jwt-secret-of-more-than-32-characters"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (without(CANCEL_TIMEOUT="soon"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (without(CANCEL_TIMEOUT="0"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (without(CANCEL_TIMEOUT="nan"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (without(LOG_LEVEL="loud"), "(calls.E001) LOG_LEVEL has a value that cannot be used"),
        (without("SUPABASE_URL"), "(calls.E002) No access token can be verified"),
        (without(SUPABASE_URL="project.supabase.co"), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (without(SUPABASE_URL="https://["), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (without(SUPABASE_JWT_ISSUER="https://else.example"), "(calls.W004) SUPABASE_JWT_ISSUER is not the issuer"),
        (without(SUPABASE_JWT_SECRET="short"), "(calls.E005) SUPABASE_JWT_SECRET is shorter than 32"),
        (without("DJANGO_SECRET_KEY"), "(calls.E006) DJANGO_SECRET_KEY is not set"),
        (without(DJANGO_SECRET_KEY=DEMO_KEY), "(calls.E007) DJANGO_SECRET_KEY is the demo value"),
        (without(SUPABASE_JWT_SECRET=DEMO_SECRET), "(calls.E007) SUPABASE_JWT_SECRET is the demo value"),
        (without("DJANGO_ALLOWED_HOSTS"), "(calls.E008) DJANGO_ALLOWED_HOSTS is empty"),
        (without("CORS_ALLOWED_ORIGINS"), "(calls.W009) CORS_ALLOWED_ORIGINS is empty"),
        (without(CORS_ALLOWED_ORIGINS="app.example.com"), "(corsheaders.E013)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_told_with_its_id_and_a_hint(environment, told):
    check = manage("check", "--fail-level", "WARNING", **environment)

    assert check.returncode == 1
    assert told in check.stderr
    assert "HINT: " in check.stderr or "corsheaders" in told
    assert "Traceback" not in check.stderr


@pytest.mark.parametrize("url", ["", "mysql://x/y", "nonsense", "postgresql://x:y@z:port/db"])
@pytest.mark.parametrize("command", ["check", "migrate", "cancel_batch"])
def test_without_a_database_one_line_says_what_to_do(command, url):
    refused = manage(command, **without("DATABASE_URL", DATABASE_URL=url) if url else without("DATABASE_URL"))

    assert refused.returncode == 1
    assert refused.stderr.startswith("Configuration error: DATABASE_URL ")
    assert len(refused.stderr.splitlines()) == 1


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path):
    script = "from agency_backend import settings; print(settings.CANCEL_TIMEOUT, settings.LOG_LEVEL)"
    (tmp_path / "agency_backend").mkdir()
    for name in ("__init__.py", "settings.py"):
        (tmp_path / "agency_backend" / name).write_text((ROOT / "agency_backend" / name).read_text())
    (tmp_path / ".env").write_text(f"DATABASE_URL={DATABASE}\nCANCEL_TIMEOUT=7\nLOG_LEVEL=ERROR\n")

    printed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "LOG_LEVEL": "debug"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert printed.stdout == "7.0 DEBUG\n"


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
    assert (with_agency.returncode, with_agency.stderr.splitlines()[-1]) == (
        1,
        "CommandError: Failed to update batch status (update_failed): the database cannot be reached, nothing is done",
    )
    assert "Traceback" not in cancel.stderr + with_agency.stderr
