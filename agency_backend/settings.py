"""
Settings. They come from the environment, or from a ``.env`` file beside ``manage.py``.

The README lists every variable with its default. The system checks in ``calls/checks.py`` report invalid values, with
a hint. Only a missing or malformed ``DATABASE_URL`` keeps the settings from loading.
"""

import logging
import os
import re
from datetime import timedelta
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

# Variables whose value is invalid, each with a hint. Their default is used, and a system check reports them.
INVALID_ENVIRONMENT: dict[str, str] = {}


def _hide_invalid_line(record: logging.LogRecord) -> bool:
    """Keep malformed lines of ``.env`` out of the log: they may contain a secret. The system check reports them."""
    if record.levelno >= logging.WARNING:
        INVALID_ENVIRONMENT[".env"] = "Write each line as NAME=value. Lines may be empty or begin with #."
    return record.levelno < logging.WARNING


logging.getLogger("environ.environ").addFilter(_hide_invalid_line)
environ.Env.read_env(BASE_DIR / ".env")


def _variable(name: str, default: str = "") -> str:
    """Return the variable's value, or the default if it is unset or empty."""
    return os.environ.get(name) or default


def _list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in _variable(name, default).split(",") if item.strip()]


DEBUG = _variable("DJANGO_DEBUG").lower() in ("1", "true", "on", "yes")
if not DEBUG and _variable("DJANGO_DEBUG").lower() not in ("", "0", "false", "off", "no"):
    INVALID_ENVIRONMENT["DJANGO_DEBUG"] = "Set it to 1 or 0."

# These values are public. They work only with DJANGO_DEBUG; without it they count as unset.
DEMO_SECRET_KEY = "demo-only-django-secret-key-known-to-everybody-who-can-read"
DEMO_JWT_SECRET = "demo-only-supabase-jwt-secret-of-more-than-32-characters"


def _unless_demo(secret: str, demo: str) -> str:
    return secret if DEBUG or secret != demo else ""


# Without DJANGO_SECRET_KEY each process uses a random key. That is safe, but sessions end with the process, so a
# system check asks for a fixed key.
DJANGO_SECRET_KEY = _variable("DJANGO_SECRET_KEY", DEMO_SECRET_KEY if DEBUG else "")
SECRET_KEY = _unless_demo(DJANGO_SECRET_KEY, DEMO_SECRET_KEY) or get_random_secret_key()
ALLOWED_HOSTS = _list("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if DEBUG else "")

SUPABASE_URL = _variable("SUPABASE_URL").rstrip("/")
SUPABASE_JWT_ISSUER = _variable("SUPABASE_JWT_ISSUER", f"{SUPABASE_URL}/auth/v1" if SUPABASE_URL else "")
SUPABASE_JWT_SECRET = _variable("SUPABASE_JWT_SECRET", DEMO_JWT_SECRET if DEBUG else "")
# The third-party OAuth clients whose tokens are accepted.
SUPABASE_OAUTH_CLIENTS = _list("SUPABASE_OAUTH_CLIENTS")


def _seconds(name: str, default: float, lowest: float, highest: float) -> float:
    """Return the variable as a number of seconds, or the default if it is unset or invalid."""
    try:
        seconds = float(_variable(name, str(default)))
        if lowest <= seconds <= highest:
            return seconds
    except ValueError:
        pass
    INVALID_ENVIRONMENT[name] = f"Set it to a number of seconds from {lowest:g} to {highest:g}."
    return default


# Timeout of a statement on all contacts of a batch.
CANCEL_TIMEOUT = _seconds("CANCEL_TIMEOUT", 120, 1, 3600)

# The voice provider. Calls are simulated where none of the settings for its keys is set.
ULTRAVOX_API_URL = _variable("ULTRAVOX_API_URL", "https://api.ultravox.ai").rstrip("/")
# The key for agencies that have none of their own.
ULTRAVOX_API_KEY = _variable("ULTRAVOX_API_KEY")
# A SELECT that returns the key of the agency %(agency_id)s, for databases that keep it encrypted in a way of their own.
ULTRAVOX_API_KEY_SQL = _variable("ULTRAVOX_API_KEY_SQL")
# The Fernet keys that encrypt agencies' keys in the database, newest first.
CREDENTIALS_KEYS = _list("CREDENTIALS_KEYS")
# Timeout of a request to the provider.
ULTRAVOX_TIMEOUT = _seconds("ULTRAVOX_TIMEOUT", 15, 0.1, 120)
# Shortest time between two attempts to call the same contact.
RETRY_PAUSE = _seconds("RETRY_PAUSE", 300, 0, 604_800)
# The bearer token for calls-batch-process. If it is empty, that endpoint is off.
CRON_SECRET = _variable("CRON_SECRET")

# How many proxies append the address of their client to X-Forwarded-For. None, if it is not set, counts as 0.
TRUSTED_PROXIES: int | None = None
if re.fullmatch("[0-9]", _variable("TRUSTED_PROXIES")):
    TRUSTED_PROXIES = int(_variable("TRUSTED_PROXIES"))
elif _variable("TRUSTED_PROXIES"):
    INVALID_ENVIRONMENT["TRUSTED_PROXIES"] = "Set it to the number of proxies, from 0 to 9."


def _days(name: str, default: int) -> int:
    """Return the variable as a number of days, or the default if it is unset or invalid. 0 means for ever."""
    value = _variable(name, str(default))
    if re.fullmatch("0|[1-9][0-9]{0,3}", value) and value != "1":
        return int(value)
    INVALID_ENVIRONMENT[name] = "Set it to a number of days from 2 to 9999, or to 0 to keep the rows for ever."
    return default


# How long webhook events and idempotency keys are kept, in days. At least two: an event matters until its call is given
# up, a day after the attempt.
WEBHOOK_EVENT_RETENTION = _days("WEBHOOK_EVENT_RETENTION", 90)
IDEMPOTENCY_KEY_RETENTION = _days("IDEMPOTENCY_KEY_RETENTION", 30)

LOG_LEVEL = _variable("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
    LOG_LEVEL = "INFO"
    INVALID_ENVIRONMENT["LOG_LEVEL"] = "Set it to DEBUG, INFO, WARNING, ERROR or CRITICAL."

INSTALLED_APPS = [
    "calls",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "axes",
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
    # Before any middleware that checks the host: health checks often use an IP address.
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
    "axes.middleware.AxesMiddleware",
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
    """Return Django's settings for the database at ``url``, with a connection pool and network timeouts."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise ImproperlyConfigured(
            "DATABASE_URL must be a postgresql:// address (PostgreSQL 14 or newer). "
            "To use the embedded server: python -m agency_backend.embedded -- COMMAND"
        )
    try:
        database: dict[str, Any] = environ.Env.db_url_config(url, engine="agency_backend.postgresql")
    except ValueError:
        # Hide the cause: its message quotes the address, which may contain part of the password.
        raise ImproperlyConfigured(
            "DATABASE_URL cannot be read. Write special characters in its password as %XX, such as %2F for a slash."
        ) from None
    options = {
        "connect_timeout": 5,
        # If the server stops responding, give up after about 10 seconds, even in the middle of a statement.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **database.get("OPTIONS", {}),
        # The locks rely on READ COMMITTED: a statement that has waited for a lock sees what was committed while it
        # waited.
        "isolation_level": IsolationLevel.READ_COMMITTED,
        # Give up early, so that the first request after an outage connects at once instead of waiting for a retry.
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

# For the admin, whose forms have a few KB. A client can send the body of a login without a password. The API's parsers
# have limits of their own.
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024

# The API's paths have no trailing slash. A path with a trailing slash gets 404 and no redirect.
APPEND_SLASH = False

LOGIN_REDIRECT_URL = "admin:index"

STATIC_URL = "static/"
# The application serves static files from the installed packages, so nothing has to be collected.
WHITENOISE_USE_FINDERS = True

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# Sign-in to the admin. A user is locked out at an address, and not everywhere: otherwise a stranger could keep an
# operator from cancelling a batch. agency_backend/sign_in.py also limits the failures of each address.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_HANDLER = "agency_backend.sign_in.SignInHandler"
AXES_CLIENT_IP_CALLABLE = "agency_backend.sign_in.client_address"
AXES_USERNAME_CALLABLE = "agency_backend.sign_in.stored_name"
AXES_LOCKOUT_CALLABLE = "agency_backend.sign_in.locked_out"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
# Store failures only, and no log of sign-ins.
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False

# A proxy terminates TLS. Only the admin and the docs redirect to HTTPS: a redirect would lose the body of a POST.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = not DEBUG
SECURE_REDIRECT_EXEMPT = [r"^(?!(admin/.*|admin|docs)$)"]
SECURE_HSTS_SECONDS = 0 if DEBUG else 31_536_000
SESSION_COOKIE_SECURE = not DEBUG
SESSION_ENGINE = "agency_backend.sessions"
CSRF_COOKIE_SECURE = not DEBUG
# HSTS for subdomains, and HSTS preloading, are decisions of the domain's owner.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# Pages load nothing from other origins, and contain no inline scripts or styles.
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
CORS_ALLOW_HEADERS = """
    authorization x-client-info apikey content-type x-region x-retry-count x-supabase-client-platform
    x-supabase-client-platform-version x-supabase-client-runtime x-supabase-client-runtime-version idempotency-key
    traceparent tracestate baggage
""".split()

# The history's columns allow NULL, because another service may leave a counter empty.
PGHISTORY_FIELD = pghistory.Field(null=True)

# Every request has an id, taken from the proxy's header or made here. It is in the log lines and in the answer.
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
    "SIGNING_KEY": _unless_demo(SUPABASE_JWT_SECRET, DEMO_JWT_SECRET),
    "AUDIENCE": "authenticated",
    "ISSUER": SUPABASE_JWT_ISSUER or None,
    "LEEWAY": 10,
    "USER_ID_CLAIM": "sub",
    "JTI_CLAIM": None,
    "TOKEN_TYPE_CLAIM": None,
}

# The defaults of ``manage.py procrastinate worker``: 8 jobs at once, a look for scheduled jobs every second, and jobs
# that succeed are deleted.
PROCRASTINATE_WORKER_DEFAULTS = {"concurrency": 8, "fetch_job_polling_interval": 1.0, "delete_jobs": "successful"}

SPECTACULAR_SETTINGS = {
    "TITLE": "Call batches",
    "DESCRIPTION": "Create, watch, pause and cancel batches of outbound calls. No call starts after a cancel.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "ENUM_NAME_OVERRIDES": {
        "BatchStatus": "calls.statuses.BatchStatus.choices",
        "ContactStatus": "calls.statuses.ContactStatus.choices",
        "CancelledStatus": ["cancelled"],
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": True},
}


def _with_request_id(record: logging.LogRecord) -> bool:
    """Add the request's id to the log record, or a dash outside of requests."""
    record.request_id = guid.get() or "-"
    return True


def _without_traceback_of_client_errors(record: logging.LogRecord) -> bool:
    """Remove the traceback that Django logs with a 4xx: the client caused the error, for example by a broken body."""
    if getattr(record, "status_code", 500) < 500:
        record.exc_info = None
    return True


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "with_request_id": {"()": "django.utils.log.CallbackFilter", "callback": _with_request_id},
        "without_secrets": {"()": "calls.redaction.WithoutSecrets"},
        "without_client_traceback": {
            "()": "django.utils.log.CallbackFilter",
            "callback": _without_traceback_of_client_errors,
        },
    },
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["with_request_id", "without_client_traceback", "without_secrets"],
        },
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"level": "INFO"},
        "django_guid": {"level": "ERROR"},
        # The development server's requests. Django keeps them from the root logger, so they need a handler here.
        "django.server": {"handlers": ["console"], "propagate": False},
        # These log each request to the provider and each job. The dialler has its own line for each call.
        "httpx": {"level": "WARNING"},
        # sign_in.py logs one line for each failed sign-in. axes would log four, with what the client sent.
        "axes": {"level": "ERROR"},
        "procrastinate": {"level": "WARNING"},
        # Scanners send unknown hosts all day. Their requests are refused, and need no line in the log.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
