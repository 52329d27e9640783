"""Misconfiguration, told before it hurts: each with an id, and a hint that says what to do."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

MIN_SECRET = 32


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.path


@register
def check_environment(**kwargs: Any) -> list[CheckMessage]:
    """Values that could not be used, so that the default stands in for them."""
    return [
        Error(f"{variable} has a value that cannot be used.", hint=hint, id="calls.E001")
        for variable, hint in settings.INVALID_ENVIRONMENT.items()
    ]


@register
def check_tokens(**kwargs: Any) -> list[CheckMessage]:
    """Whether an access token could be verified at all, and only by what this project's Supabase signs with."""
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
                hint="It looks like https://abcdefgh.supabase.co.",
                id="calls.E003",
            )
        )
    if url and issuer != f"{url}/auth/v1":
        messages.append(
            Warning(
                "SUPABASE_JWT_ISSUER is not the issuer of SUPABASE_URL.",
                hint="Leave SUPABASE_JWT_ISSUER unset, unless the project signs in under another domain.",
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
    """What a demo may leave open and production may not."""
    if settings.DEBUG:
        return []
    messages: list[CheckMessage] = []
    if not settings.DJANGO_SECRET_KEY:
        messages.append(
            Error(
                "DJANGO_SECRET_KEY is not set: each process has a random one, and sign-ins to the admin do not last.",
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
                    f"{variable} is the demo value, which everybody knows.",
                    hint="Set it to the project's own secret.",
                    id="calls.E007",
                )
            )
    if not settings.ALLOWED_HOSTS:
        messages.append(
            Error(
                "DJANGO_ALLOWED_HOSTS is empty: every request is refused.",
                hint="Set it to the host names that clients use, separated by commas.",
                id="calls.E008",
            )
        )
    if not settings.CORS_ALLOW_ALL_ORIGINS and not settings.CORS_ALLOWED_ORIGINS:
        messages.append(
            Warning(
                "CORS_ALLOWED_ORIGINS is empty: web clients of other origins cannot call the functions.",
                hint="Set it to their origins, separated by commas, such as https://app.example.com; or to *.",
                id="calls.W009",
            )
        )
    return messages
