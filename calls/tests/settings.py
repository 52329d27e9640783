"""Production settings with fixed values, whatever the machine's environment and ``.env`` contain."""

import os

os.environ |= {
    "CANCEL_TIMEOUT": "120",
    "CREDENTIALS_KEYS": "",
    "CRON_SECRET": "",
    "CORS_ALLOWED_ORIGINS": "https://app.example.com",
    "DJANGO_ALLOWED_HOSTS": "testserver,127.0.0.1,localhost",
    "DJANGO_DEBUG": "0",
    "DJANGO_SECRET_KEY": "secret-key-of-the-tests-with-enough-characters-for-the-system-checks",
    "IDEMPOTENCY_KEY_RETENTION": "30",
    "LOG_LEVEL": "INFO",
    "RETRY_PAUSE": "0",
    "SUPABASE_JWT_ISSUER": "https://project.supabase.co/auth/v1",
    "SUPABASE_JWT_SECRET": "legacy-jwt-secret-of-the-tests-with-enough-characters",
    "SUPABASE_OAUTH_CLIENTS": "",
    "SUPABASE_URL": "",
    "TRUSTED_PROXIES": "0",
    "ULTRAVOX_API_KEY": "",
    "ULTRAVOX_API_KEY_SQL": "",
    "ULTRAVOX_API_URL": "",
    "ULTRAVOX_TIMEOUT": "15",
    "WEBHOOK_EVENT_RETENTION": "90",
}

from agency_backend.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
