"""System checks of the configuration and of the database, each with an id and a hint."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

import pgtrigger
from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, ProgrammingError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from pgtrigger.core import INSTALLED, UNINSTALLED
from uuid_utils.compat import uuid7

from calls.credentials import NEW_KEY, are_usable, decrypt, has_key_settings
from calls.database.adoption.survey import survey
from calls.exceptions import CredentialsUnusable
from calls.models import Agency
from calls.parsing import API_KEY_RULE, is_api_key

MIN_SECRET = 32
REPAIR = "Restore it: python manage.py repair_database"


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.path


@register
def check_environment(**kwargs: Any) -> list[CheckMessage]:
    """Report environment variables whose value is invalid. The settings use their defaults instead."""
    return [
        Error(f"{variable} has a value that cannot be used.", hint=hint, id="calls.E001")
        for variable, hint in settings.INVALID_ENVIRONMENT.items()
    ]


@register
def check_tokens(**kwargs: Any) -> list[CheckMessage]:
    """Check that access tokens can be verified, and that only this Supabase project can have signed them."""
    messages: list[CheckMessage] = []
    secret, url, issuer = settings.SUPABASE_JWT_SECRET, settings.SUPABASE_URL, settings.SUPABASE_JWT_ISSUER
    if not secret and not url:
        messages.append(
            Error(
                "No access token can be verified.",
                hint="Set SUPABASE_URL (published keys), SUPABASE_JWT_SECRET (legacy HS256 secret), or both.",
                id="calls.E002",
            )
        )
    if url and not _is_origin(url):
        messages.append(
            Error(
                "SUPABASE_URL is not an http(s) address without a path.",
                hint="Set it to an address such as https://abcdefgh.supabase.co.",
                id="calls.E003",
            )
        )
    # A project with a custom domain issues its tokens under its own reference.
    if url and issuer != f"{url}/auth/v1" and not issuer.endswith(".supabase.co/auth/v1"):
        messages.append(
            Warning(
                "SUPABASE_JWT_ISSUER is neither the issuer of SUPABASE_URL nor an address at supabase.co.",
                hint="Leave it unset. With a custom domain, set it to https://<reference>.supabase.co/auth/v1.",
                id="calls.W004",
            )
        )
    if secret and len(secret) < MIN_SECRET:
        messages.append(
            Error(
                f"SUPABASE_JWT_SECRET is shorter than {MIN_SECRET} characters and could be guessed.",
                hint="Copy the legacy JWT secret from the Supabase dashboard, or leave it unset if it is revoked.",
                id="calls.E005",
            )
        )
    return messages


@register
def check_production(**kwargs: Any) -> list[CheckMessage]:
    """Check the settings that a demo can do without and production cannot."""
    if settings.DEBUG:
        return []
    messages: list[CheckMessage] = []
    if not settings.DJANGO_SECRET_KEY:
        messages.append(
            Error(
                "DJANGO_SECRET_KEY is not set: each process uses a random key, so sign-ins to the admin do not last.",
                hint="Set it to 50 or more random characters, the same for every process.",
                id="calls.E006",
            )
        )
    for variable, demo in (
        ("DJANGO_SECRET_KEY", settings.DEMO_SECRET_KEY),
        ("SUPABASE_JWT_SECRET", settings.DEMO_JWT_SECRET),
    ):
        if getattr(settings, variable) == demo:
            messages.append(
                Error(
                    f"{variable} is the demo value, which is public.",
                    hint="Set it to a secret of your own.",
                    id="calls.E007",
                )
            )
    if not settings.ALLOWED_HOSTS:
        messages.append(
            Error(
                "DJANGO_ALLOWED_HOSTS is empty, so every request is refused.",
                hint="Set it to the host names that clients use, separated by commas.",
                id="calls.E008",
            )
        )
    if not settings.CORS_ALLOW_ALL_ORIGINS and not settings.CORS_ALLOWED_ORIGINS:
        messages.append(
            Warning(
                "CORS_ALLOWED_ORIGINS is empty, so web clients on other origins cannot call the API.",
                hint="Set it to their origins, such as https://app.example.com, separated by commas, or to *.",
                id="calls.W009",
            )
        )
    if settings.TRUSTED_PROXIES is None:
        messages.append(
            Warning(
                "TRUSTED_PROXIES is not set: behind a proxy all clients count as one, so a stranger can lock out every"
                " user of the admin.",
                hint="Set it to the number of proxies that append their client's address to X-Forwarded-For, or to 0.",
                id="calls.W022",
            )
        )
    return messages


@register
def check_dialler(**kwargs: Any) -> list[CheckMessage]:
    """Check that real calls are placed, that the timeouts are long enough, and that CRON_SECRET cannot be guessed."""
    messages: list[CheckMessage] = []
    is_real = has_key_settings()
    if not is_real and not settings.DEBUG:
        messages.append(
            Warning(
                "Calls are simulated: no real call is placed.",
                hint="Set ULTRAVOX_API_KEY, ULTRAVOX_API_KEY_SQL or CREDENTIALS_KEYS to place real calls.",
                id="calls.W017",
            )
        )
    if is_real and not _is_origin(settings.ULTRAVOX_API_URL):
        messages.append(
            Error(
                "ULTRAVOX_API_URL is not an http(s) address without a path.",
                hint="Leave it unset for https://api.ultravox.ai.",
                id="calls.E018",
            )
        )
    if settings.RETRY_PAUSE < 60:
        messages.append(
            Warning(
                "RETRY_PAUSE is shorter than a minute: two attempts at one contact within a minute count as one in"
                " calls_per_minute.",
                hint="Set it to 60 or more seconds.",
                id="calls.W020",
            )
        )
    if is_real and settings.ULTRAVOX_TIMEOUT < 10:
        messages.append(
            Warning(
                "ULTRAVOX_TIMEOUT is shorter than 10 seconds: the sweep looks for a call after four times as long,"
                " and may release a contact's claim while the provider is still placing the call.",
                hint="Set it to 10 or more seconds.",
                id="calls.W021",
            )
        )
    if settings.CRON_SECRET and len(settings.CRON_SECRET) < MIN_SECRET:
        messages.append(
            Error(
                f"CRON_SECRET is shorter than {MIN_SECRET} characters and could be guessed.",
                hint="Set it to random characters, or leave it unset if no cron service calls calls-batch-process.",
                id="calls.E019",
            )
        )
    return messages


@register
def check_keys(**kwargs: Any) -> list[CheckMessage]:
    """Check the settings for the agencies' keys, without reading any agency."""
    messages: list[CheckMessage] = []
    if settings.ULTRAVOX_API_KEY and not is_api_key(settings.ULTRAVOX_API_KEY):
        messages.append(
            Error(
                f"ULTRAVOX_API_KEY is not a key: it {API_KEY_RULE}.",
                hint="Copy it again from Ultravox.",
                id="calls.E023",
            )
        )
    if settings.ULTRAVOX_API_KEY_SQL and not _names_the_agency(settings.ULTRAVOX_API_KEY_SQL):
        messages.append(
            Error(
                "ULTRAVOX_API_KEY_SQL is not a statement with the parameter %(agency_id)s.",
                hint="Write %(agency_id)s in place of the agency's id, without quotes, and %% for a percent sign.",
                id="calls.E024",
            )
        )
    if settings.CREDENTIALS_KEYS and not are_usable(settings.CREDENTIALS_KEYS):
        messages.append(
            Error(
                "CREDENTIALS_KEYS has a value that is not a Fernet key, so no agency's key can be stored or read.",
                hint=f"Separate the keys by commas. To make one: {NEW_KEY}",
                id="calls.E025",
            )
        )
    return messages


def _names_the_agency(statement: str) -> bool:
    try:
        statement % {"agency_id": ""}
    except (KeyError, TypeError, ValueError):
        return False
    return "%(agency_id)s" in statement


@register(Tags.database)
def check_stored_keys(databases: Collection[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """
    Check that the keys stored with agencies can be decrypted, and that ULTRAVOX_API_KEY_SQL can be planned.

    Warnings, because errors would keep ``migrate`` from running.
    """
    if not databases:
        return []
    try:
        if not is_migrated():
            return []
        messages = [_undecryptable(*agency) for agency in _agencies_with_unusable_keys()]
        if _names_the_agency(settings.ULTRAVOX_API_KEY_SQL):
            messages += _check_key_statement()
    except DatabaseError as error:
        return [Error(f"The agencies' keys cannot be checked: {type(error).__name__}.", id="calls.E012")]
    return messages


def _agencies_with_unusable_keys() -> Iterator[tuple[str, CredentialsUnusable]]:
    stored = Agency.objects.filter(ultravox_api_key_encrypted__isnull=False).order_by("slug")
    for pk, slug, token in stored.values_list("pk", "slug", "ultravox_api_key_encrypted"):
        try:
            if token:
                decrypt(bytes(token))
        except CredentialsUnusable as unusable:
            yield slug or str(pk), unusable


def _undecryptable(slug: str, unusable: CredentialsUnusable) -> CheckMessage:
    return Warning(f"No call is placed for the agency {slug}.", hint=f"{unusable}.", id="calls.W026")


def _check_key_statement() -> list[CheckMessage]:
    """Plan the statement without running it: it may decrypt."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {settings.ULTRAVOX_API_KEY_SQL}", {"agency_id": uuid7()})
    except ProgrammingError as error:
        sqlstate = getattr(error.__cause__, "sqlstate", None)
        return [
            Warning(
                f"ULTRAVOX_API_KEY_SQL fails for every agency: {type(error).__name__}, {sqlstate}.",
                hint="Correct the statement, or grant what it reads to the app's role.",
                id="calls.W027",
            )
        ]
    except DatabaseError:
        # A function that the planner calls may fail for an unknown agency.
        return []
    return []


@register(Tags.database)
def check_database(databases: Collection[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """
    Check that the tables, indexes, constraints and triggers are complete.

    ``check --database default`` and ``migrate`` run it. Before the app's migrations have been applied, it reports only
    obstacles to adoption.
    """
    if not databases:
        return []
    try:
        migrated = is_migrated()
        reports = survey(apps)
        messages: list[CheckMessage] = [
            Error(f"{report.name}: {obstacle.problem}.", hint=obstacle.remedy, id="calls.E010")
            for report in reports
            for obstacle in report.obstacles
        ]
        messages += [
            Warning(f"{report.name}: {warning.problem}.", hint=warning.remedy, id="calls.W028")
            for report in reports
            for warning in report.warnings
        ]
        if migrated:
            messages += [
                Error(f"{report.name}: missing {step.description}.", hint=REPAIR, id="calls.E011")
                for report in reports
                for step in report.missing_steps
            ]
            messages += _check_triggers()
    except DatabaseError as error:
        return [Error(f"The database cannot be checked: {type(error).__name__}.", id="calls.E012")]
    return messages


def is_migrated() -> bool:
    """Return whether every migration of the app has been applied."""
    executor = MigrationExecutor(connection)
    return not executor.migration_plan(executor.loader.graph.leaf_nodes("calls"))


def _check_triggers() -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    for model, trigger in pgtrigger.registered():
        name = f"The trigger {trigger.name} of {model._meta.db_table}"
        status, enabled = trigger.get_installation_status(model)
        if status != INSTALLED:
            what = "is missing" if status == UNINSTALLED else "does not match this version of the app"
            messages.append(Error(f"{name} {what}.", hint=REPAIR, id="calls.E013"))
            continue
        if not enabled:
            messages.append(Error(f"{name} is disabled.", hint=REPAIR, id="calls.E014"))
        body, as_owner = _trigger_function(trigger.get_pgid(model))
        if not as_owner:
            messages.append(
                Error(
                    f"{name} does not run as the table's owner, so it depends on the rights of the role that writes.",
                    hint=REPAIR,
                    id="calls.E015",
                )
            )
        if _without_whitespace(body) not in _without_whitespace(str(trigger.compile(model).install_sql)):
            messages.append(Error(f"{name} runs a function that was changed.", hint=REPAIR, id="calls.E016"))
    return messages


def _without_whitespace(source: str) -> str:
    """Return the source without white space, because migrations indent it differently."""
    return "".join(source.split())


def _trigger_function(trigger: str) -> tuple[str, bool]:
    """Return the function's body, and whether it runs as the table's owner with a fixed search path."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT prosrc, prosecdef AND proowner = relowner AND proconfig = ARRAY['search_path=public, pg_temp']
            FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid JOIN pg_class ON pg_class.oid = tgrelid
            WHERE tgname = %s
            """,
            [trigger],
        )
        body, as_owner = cursor.fetchone()
    return str(body), bool(as_owner)
