"""The settings as in production, and the same on every machine whatever its environment and ``.env`` say."""

import os

os.environ |= {
    "CANCEL_TIMEOUT": "120",
    "CRON_SECRET": "",
    "CORS_ALLOWED_ORIGINS": "https://app.example.com",
    "DJANGO_ALLOWED_HOSTS": "testserver,127.0.0.1,localhost",
    "DJANGO_DEBUG": "0",
    "DJANGO_SECRET_KEY": "a-key-for-the-tests-alone-and-long-enough-to-be-taken-for-real",
    "LOG_LEVEL": "INFO",
    "RETRY_PAUSE": "0",
    "SUPABASE_JWT_ISSUER": "https://project.supabase.co/auth/v1",
    "SUPABASE_JWT_SECRET": "a-legacy-secret-of-the-tests-and-of-nobody-else",
    "SUPABASE_URL": "",
    "ULTRAVOX_API_KEY": "",
    "ULTRAVOX_API_URL": "",
    "ULTRAVOX_TIMEOUT": "15",
}

from agency_backend.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
