"""
Settings, all of them from the environment or from a ``.env`` file beside ``manage.py``.

The README lists every variable with its default. A value that cannot work is reported by the system
checks in ``calls/checks.py``, with a hint; only a missing database stops the settings themselves.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

import environ
import pghistory
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key
from django_guid.context import guid
from psycopg import IsolationLevel

BASE_DIR = Path(__file__).resolve().parent.parent

# What could not be used, by variable: the default stands in for it, and a check says so.
INVALID_ENVIRONMENT: dict[str, str] = {}


def _note_invalid_line(record: logging.LogRecord) -> bool:
    """Keep a line of ``.env`` that cannot be read out of the log: it may well be a secret."""
    if record.levelno >= logging.WARNING:
        INVALID_ENVIRONMENT[".env"] = "Each of its lines is NAME=value, or empty, or begins with #."
    return record.levelno < logging.WARNING


logging.getLogger("environ.environ").addFilter(_note_invalid_line)
environ.Env.read_env(BASE_DIR / ".env")


def _variable(name: str, default: str = "") -> str:
    """The variable, or the default where it is not set or is empty."""
    return os.environ.get(name) or default


def _list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in _variable(name, default).split(",") if item.strip()]


DEBUG = _variable("DJANGO_DEBUG").lower() in ("1", "true", "on", "yes")
if not DEBUG and _variable("DJANGO_DEBUG").lower() not in ("", "0", "false", "off", "no"):
    INVALID_ENVIRONMENT["DJANGO_DEBUG"] = "Give it 1 or 0."

# Known to everybody who can read this file: they work with DJANGO_DEBUG, and count as unset without it.
DEMO_SECRET_KEY = "demo-only-django-secret-key-known-to-everybody-who-can-read"
DEMO_JWT_SECRET = "demo-only-supabase-jwt-secret-of-more-than-32-characters"


def _unless_demo(secret: str, demo: str) -> str:
    return secret if DEBUG or secret != demo else ""


# Without a key of its own a process gets a random one: nobody can guess it, and the check asks for a lasting one.
DJANGO_SECRET_KEY = _variable("DJANGO_SECRET_KEY", DEMO_SECRET_KEY if DEBUG else "")
SECRET_KEY = _unless_demo(DJANGO_SECRET_KEY, DEMO_SECRET_KEY) or get_random_secret_key()
ALLOWED_HOSTS = _list("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if DEBUG else "")

SUPABASE_URL = _variable("SUPABASE_URL").rstrip("/")
SUPABASE_JWT_ISSUER = _variable("SUPABASE_JWT_ISSUER", f"{SUPABASE_URL}/auth/v1" if SUPABASE_URL else "")
SUPABASE_JWT_SECRET = _variable("SUPABASE_JWT_SECRET", DEMO_JWT_SECRET if DEBUG else "")


def _seconds(name: str, default: float, lowest: float, highest: float) -> float:
    """A number of seconds, or the default where the variable is not set or holds no such number."""
    try:
        seconds = float(_variable(name, str(default)))
        if lowest <= seconds <= highest:
            return seconds
    except ValueError:
        pass
    INVALID_ENVIRONMENT[name] = f"Give it a number of seconds from {lowest:g} to {highest:g}."
    return default


# How long the UPDATE of a batch's contacts may take.
CANCEL_TIMEOUT = _seconds("CANCEL_TIMEOUT", 120, 1, 3600)

# The voice provider. Without a key calls are simulated.
ULTRAVOX_API_URL = _variable("ULTRAVOX_API_URL", "https://api.ultravox.ai").rstrip("/")
ULTRAVOX_API_KEY = _variable("ULTRAVOX_API_KEY")
# How long the provider may take to answer.
ULTRAVOX_TIMEOUT = _seconds("ULTRAVOX_TIMEOUT", 15, 0.1, 120)
# How long somebody who was not reached is left alone before the next attempt.
RETRY_PAUSE = _seconds("RETRY_PAUSE", 300, 0, 604_800)
# What a cron service shows to have a pass of the dialler made by HTTP. Without one that is off.
CRON_SECRET = _variable("CRON_SECRET")

LOG_LEVEL = _variable("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
    LOG_LEVEL = "INFO"
    INVALID_ENVIRONMENT["LOG_LEVEL"] = "Give it one of DEBUG, INFO, WARNING, ERROR, CRITICAL."

INSTALLED_APPS = [
    "calls",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "corsheaders",
    "csp",
    "django_guid",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "pghistory",
    "pgtrigger",
    "procrastinate.contrib.django",
    "rest_framework",
]

MIDDLEWARE = [
    "django_guid.middleware.guid_middleware",
    # Before what refuses hosts: whoever checks on a machine asks it by its number.
    "agency_backend.health.healthz_middleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "agency_backend.urls"
WSGI_APPLICATION = "agency_backend.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database(url: str) -> dict[str, Any]:
    """Django's settings for the PostgreSQL at ``url``: a connection pool, and no wait for the network without end."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise ImproperlyConfigured(
            "DATABASE_URL must be a postgresql:// address (PostgreSQL 14 or newer). "
            "To use the embedded server: python -m agency_backend.embedded -- COMMAND"
        )
    try:
        database: dict[str, Any] = environ.Env.db_url_config(url, engine="agency_backend.postgresql")
    except ValueError:
        # Without the reason: it quotes the address, and so perhaps a part of the password.
        raise ImproperlyConfigured(
            "DATABASE_URL cannot be read. Write special characters in its password as %XX, such as %2F for a slash."
        ) from None
    options = {
        "connect_timeout": 5,
        # A server that has vanished is given up after some 10 seconds, also in the middle of a statement.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **database.get("OPTIONS", {}),
        # The locks rely on it: each statement sees what was committed while it waited.
        "isolation_level": IsolationLevel.READ_COMMITTED,
        # Give up soon, so that the first request after an outage tries afresh instead of waiting for a late retry.
        "pool": {"min_size": 0, "max_size": 20, "timeout": 5, "reconnect_timeout": 5},
    }
    return {**database, "OPTIONS": options}


DATABASES = {"default": _database(_variable("DATABASE_URL"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False
FORMAT_MODULE_PATH = "agency_backend.formats"

# As much as is read of any body: more than the longest that is taken, so that who sends a longer one reads the answer.
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024 * 1024

# The API's paths have no trailing slash and are never redirected; a second spelling is simply not found.
APPEND_SLASH = False

LOGIN_REDIRECT_URL = "admin:index"

STATIC_URL = "static/"
# Served by the application from where the packages keep them: there is nothing to collect.
WHITENOISE_USE_FINDERS = True

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# Behind a proxy that ends TLS. What programs ask for is answered by plain HTTP too: a redirect would lose a POST.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = not DEBUG
SECURE_REDIRECT_EXEMPT = [r"^(?!(admin/.*|admin|docs)$)"]
SECURE_HSTS_SECONDS = 0 if DEBUG else 31_536_000
SESSION_COOKIE_SECURE = not DEBUG
SESSION_ENGINE = "agency_backend.sessions"
CSRF_COOKIE_SECURE = not DEBUG
# Whether subdomains follow, and whether browsers preload the domain, is for the owner of the domain to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# Pages take nothing from elsewhere, and no script or style that stands in the page itself.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

CORS_URLS_REGEX = r"^/functions/"
_cors_origins = _list("CORS_ALLOWED_ORIGINS", "*" if DEBUG else "")
CORS_ALLOW_ALL_ORIGINS = "*" in _cors_origins
CORS_ALLOWED_ORIGINS = [origin for origin in _cors_origins if origin != "*"]
CORS_ALLOW_HEADERS = [
    "authorization",
    "x-client-info",
    "apikey",
    "content-type",
    "x-region",
    "x-retry-count",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "baggage",
]

# The history takes a batch as it is, also where another service has left a counter empty.
PGHISTORY_FIELD = pghistory.Field(null=True)

# One id for all that a request says in the log, which its answer carries too. A proxy may have given it one.
REQUEST_ID_HEADER = "X-Request-ID"
DJANGO_GUID = {"GUID_HEADER_NAME": REQUEST_ID_HEADER, "EXPOSE_HEADER": False}
CORS_EXPOSE_HEADERS = [REQUEST_ID_HEADER]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "calls.api.errors.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
}

SIMPLE_JWT: dict[str, Any] = {
    "AUTH_TOKEN_CLASSES": ["calls.api.authentication.SupabaseAccessToken"],
    "SIGNING_KEY": _unless_demo(SUPABASE_JWT_SECRET, DEMO_JWT_SECRET),
    "AUDIENCE": "authenticated",
    "ISSUER": SUPABASE_JWT_ISSUER or None,
    "LEEWAY": 10,
    "USER_ID_CLAIM": "sub",
    "JTI_CLAIM": None,
    "TOKEN_TYPE_CLAIM": None,
}

# What a worker does, ``manage.py procrastinate worker``, unless it is told otherwise: jobs at once, and none is kept
# that has done its work.
PROCRASTINATE_WORKER_DEFAULTS = {"concurrency": 8, "delete_jobs": "successful"}

SPECTACULAR_SETTINGS = {
    "TITLE": "Call batches",
    "DESCRIPTION": "Stop a batch of outbound calls, now, and be able to trust that it has stopped.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "ENUM_NAME_OVERRIDES": {
        "BatchStatus": "calls.statuses.BatchStatus.choices",
        "ContactStatus": "calls.statuses.ContactStatus.choices",
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": True},
}


def _with_request_id(record: logging.LogRecord) -> bool:
    """Say which request it was; what no request has caused has a dash."""
    record.request_id = guid.get() or "-"
    return True


def _without_query(record: logging.LogRecord) -> bool:
    """Keep what somebody searches for, perhaps a phone number, out of the development server's log."""
    if isinstance(record.args, tuple) and record.args:
        record.args = (re.sub(r"\?\S*", "", str(record.args[0])), *record.args[1:])
    return True


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "with_request_id": {"()": "django.utils.log.CallbackFilter", "callback": _with_request_id},
        "without_secrets": {"()": "calls.redaction.WithoutSecrets"},
        "without_query": {"()": "django.utils.log.CallbackFilter", "callback": _without_query},
    },
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["with_request_id", "without_secrets"],
        },
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"level": "INFO"},
        "django_guid": {"level": "ERROR"},
        "django.server": {"filters": ["without_query", "without_secrets"]},
        # Each request to the provider, and each turn of the queue, which a line of the dialler's own tells better.
        "httpx": {"level": "WARNING"},
        "procrastinate": {"level": "WARNING"},
        # Whoever scans the internet asks for other hosts all day long. They are refused; that is all there is to say.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
