"""Settings from the environment, and the system checks that report missing, contradictory and demo values."""

import logging
import os
import runpy
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet

from calls.tests.support.manage import ROOT, manage

DEMO_KEY = "demo-only-django-secret-key-known-to-everybody-who-can-read"
DEMO_SECRET = "demo-only-supabase-jwt-secret-of-more-than-32-characters"
DATABASE = "postgresql://user@127.0.0.1:1/nothing"
PRODUCTION = {
    "CORS_ALLOWED_ORIGINS": "https://app.example.com",
    "DATABASE_URL": DATABASE,
    "DJANGO_ALLOWED_HOSTS": "api.example.com",
    "DJANGO_SECRET_KEY": "a-secret-key-with-more-than-fifty-characters-for-the-tests-7c1d9b54",
    "SUPABASE_URL": "https://project.supabase.co",
    "TRUSTED_PROXIES": "1",
    "ULTRAVOX_API_KEY": "the-provider-s-key",
}


def production(*missing, **changes):
    """Return the production environment without these variables and with these changes."""
    return {name: value for name, value in (PRODUCTION | changes).items() if name not in missing}


def run_python(*arguments, folder=ROOT, environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "environment"),
    [(["--deploy"], PRODUCTION), ([], {"DATABASE_URL": DATABASE, "DJANGO_DEBUG": "1"})],
    ids=["production", "demo"],
)
def test_complete_settings_pass_every_check_without_a_warning(options, environment):
    # A new Python, to see the warnings of imports too.
    check = run_python("-Wd", "manage.py", "check", *options, "--fail-level", "DEBUG", environment=environment)

    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.parametrize(
    "keys",
    [
        {"ULTRAVOX_API_KEY_SQL": "SELECT decrypt_key(id) FROM agencies WHERE id = %(agency_id)s"},
        {"CREDENTIALS_KEYS": f"{Fernet.generate_key().decode()}, {Fernet.generate_key().decode()}"},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_either_setting_for_agencies_own_keys_is_enough_to_place_real_calls(keys):
    environment = production("ULTRAVOX_API_KEY", **keys)

    check = manage("check", "--fail-level", "WARNING", environment=environment)

    assert (check.returncode, check.stderr) == (0, "")


def test_a_custom_domain_with_the_projects_own_issuer_is_accepted():
    environment = production(
        SUPABASE_URL="https://api.example.com", SUPABASE_JWT_ISSUER="https://abcdefgh.supabase.co/auth/v1"
    )

    check = manage("check", "--fail-level", "WARNING", environment=environment)

    assert (check.returncode, check.stderr) == (0, "")


def test_the_development_servers_log_has_no_query_strings(caplog):
    logger = logging.getLogger("django.server")
    logger.addHandler(caplog.handler)

    logger.info('"%s" %s %s', "GET /admin/calls/callbatch/?q=%2B12125550100 HTTP/1.1", "200", "1234")

    logger.removeHandler(caplog.handler)
    assert caplog.messages == ['"GET /admin/calls/callbatch/ HTTP/1.1" 200 1234']


def test_an_empty_variable_counts_as_unset():
    empty = {"CANCEL_TIMEOUT": "", "LOG_LEVEL": "", "SUPABASE_JWT_ISSUER": "", "SUPABASE_JWT_SECRET": ""}
    script = "from django.conf import settings; print(settings.SIMPLE_JWT['ISSUER'], settings.CANCEL_TIMEOUT)"

    shell = manage("shell", "--no-imports", "--command", script, environment=production(**empty))

    assert shell.stdout == "https://project.supabase.co/auth/v1 120.0\n"


def test_demo_secrets_count_as_unset_in_production():
    script = "from django.conf import settings; print([settings.SIMPLE_JWT['SIGNING_KEY'], len(settings.SECRET_KEY)])"
    demo_secrets = {"DJANGO_SECRET_KEY": DEMO_KEY, "SUPABASE_JWT_SECRET": DEMO_SECRET}

    shell = manage("shell", "--no-imports", "--command", script, environment=production(**demo_secrets))

    assert shell.stdout == "['', 50]\n"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (production(CANCEL_TIMEOUT="soon"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (production(CANCEL_TIMEOUT="0"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (production(CANCEL_TIMEOUT="nan"), "(calls.E001) CANCEL_TIMEOUT has a value that cannot be used"),
        (production(LOG_LEVEL="loud"), "(calls.E001) LOG_LEVEL has a value that cannot be used"),
        (production("SUPABASE_URL"), "(calls.E002) No access token can be verified"),
        (production(SUPABASE_URL="project.supabase.co"), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (
            production(SUPABASE_URL="https://x.supabase.co/auth/v1"),
            "(calls.E003) SUPABASE_URL is not an http(s) address",
        ),
        (production(DJANGO_DEBUG="maybe"), "(calls.E001) DJANGO_DEBUG has a value that cannot be used"),
        (production(SUPABASE_URL="https://["), "(calls.E003) SUPABASE_URL is not an http(s) address"),
        (production(SUPABASE_JWT_ISSUER="https://else.example"), "(calls.W004) SUPABASE_JWT_ISSUER is neither"),
        (production(SUPABASE_JWT_SECRET="short"), "(calls.E005) SUPABASE_JWT_SECRET is shorter than 32"),
        (production("DJANGO_SECRET_KEY"), "(calls.E006) DJANGO_SECRET_KEY is not set"),
        (production(DJANGO_SECRET_KEY=DEMO_KEY), "(calls.E007) DJANGO_SECRET_KEY is the demo value"),
        (production(SUPABASE_JWT_SECRET=DEMO_SECRET), "(calls.E007) SUPABASE_JWT_SECRET is the demo value"),
        (production("DJANGO_ALLOWED_HOSTS"), "(calls.E008) DJANGO_ALLOWED_HOSTS is empty"),
        (production("CORS_ALLOWED_ORIGINS"), "(calls.W009) CORS_ALLOWED_ORIGINS is empty"),
        (production(CORS_ALLOWED_ORIGINS="app.example.com"), "(corsheaders.E013)"),
        (production("ULTRAVOX_API_KEY"), "(calls.W017) Calls are simulated: no real call is placed"),
        (production(ULTRAVOX_API_KEY="two keys"), "(calls.E023) ULTRAVOX_API_KEY is not a key"),
        (production(ULTRAVOX_API_KEY_SQL="SELECT 'key'"), "(calls.E024) ULTRAVOX_API_KEY_SQL is not a statement with"),
        (
            production(ULTRAVOX_API_KEY_SQL="%(agency_id)s%"),
            "(calls.E024) ULTRAVOX_API_KEY_SQL is not a statement with",
        ),
        (production(CREDENTIALS_KEYS="short"), "(calls.E025) CREDENTIALS_KEYS has a value that is not a Fernet key"),
        (production(ULTRAVOX_API_URL="api.ultravox.ai"), "(calls.E018) ULTRAVOX_API_URL is not an http(s) address"),
        (production(ULTRAVOX_TIMEOUT="0"), "(calls.E001) ULTRAVOX_TIMEOUT has a value that cannot be used"),
        (production(RETRY_PAUSE="-1"), "(calls.E001) RETRY_PAUSE has a value that cannot be used"),
        (
            production(WEBHOOK_EVENT_RETENTION="1"),
            "(calls.E001) WEBHOOK_EVENT_RETENTION has a value that cannot be used",
        ),
        (
            production(IDEMPOTENCY_KEY_RETENTION="for ever"),
            "(calls.E001) IDEMPOTENCY_KEY_RETENTION has a value that cannot be used",
        ),
        (production(RETRY_PAUSE="59"), "(calls.W020) RETRY_PAUSE is shorter than a minute"),
        (production(ULTRAVOX_TIMEOUT="9"), "(calls.W021) ULTRAVOX_TIMEOUT is shorter than 10 seconds"),
        (production(CRON_SECRET="short"), "(calls.E019) CRON_SECRET is shorter than 32"),
        (production("TRUSTED_PROXIES"), "(calls.W022) TRUSTED_PROXIES is not set"),
        (production(TRUSTED_PROXIES="10"), "(calls.E001) TRUSTED_PROXIES has a value that cannot be used"),
        (production(TRUSTED_PROXIES="\u0661"), "(calls.E001) TRUSTED_PROXIES has a value that cannot be used"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_check_reports_each_mistake_with_an_id_and_a_hint(environment, message):
    check = manage("check", "--fail-level", "WARNING", environment=environment)

    assert check.returncode == 1
    assert message in check.stderr
    assert "HINT: " in check.stderr or "corsheaders" in message
    assert "Traceback" not in check.stderr


@pytest.mark.parametrize("url", ["", "mysql://x/y", "nonsense", "postgresql://x:y@z:port/db"])
@pytest.mark.parametrize("command", ["check", "migrate", "cancel_batch"])
def test_a_missing_or_malformed_database_url_is_reported_in_one_line(command, url):
    environment = production(DATABASE_URL=url) if url else production("DATABASE_URL")

    refused = manage(command, environment=environment)

    assert refused.returncode == 2
    assert refused.stderr.startswith("Configuration error: DATABASE_URL ")
    assert len(refused.stderr.splitlines()) == 1


def settings_with_dotenv(folder, dotenv, expression, **environment):
    """Evaluate an expression about the settings, in a copy of the project that has a .env file."""
    (folder / ".env").write_text(f"DATABASE_URL={DATABASE}\n{dotenv}")
    (folder / "agency_backend").mkdir()
    for name in ("__init__.py", "settings.py"):
        (folder / "agency_backend" / name).write_text((ROOT / "agency_backend" / name).read_text())
    script = f"from agency_backend import settings; print({expression})"
    return run_python("-c", script, folder=folder, environment=environment)


def test_the_environment_overrides_the_dotenv_file(tmp_path):
    dotenv = "CANCEL_TIMEOUT=7\nLOG_LEVEL=ERROR\n"

    read = settings_with_dotenv(tmp_path, dotenv, "(settings.CANCEL_TIMEOUT, settings.LOG_LEVEL)", LOG_LEVEL="debug")

    assert read.stdout == "(7.0, 'DEBUG')\n"


def test_a_malformed_value_is_not_printed_because_it_may_be_a_secret(tmp_path):
    refused = manage("check", environment=production(DATABASE_URL="postgresql://user:S3cret/pass@127.0.0.1/x"))
    read = settings_with_dotenv(tmp_path, "SUPABASE_JWT_SECRET: S3cret\n", "settings.INVALID_ENVIRONMENT")

    assert refused.stderr.startswith("Configuration error: DATABASE_URL cannot be read.")
    assert read.stdout == "{'.env': 'Write each line as NAME=value. Lines may be empty or begin with #.'}\n"
    assert "S3cret" not in refused.stderr + read.stderr


def test_gunicorns_timeouts_are_longer_than_that_of_a_cancel(settings):
    settings.CANCEL_TIMEOUT = 300

    configured = runpy.run_path(str(ROOT / "gunicorn.conf.py"))

    assert configured["timeout"] > 300
    assert configured["graceful_timeout"] > 300
