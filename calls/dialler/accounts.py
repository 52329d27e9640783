"""The agencies' accounts at the provider: each agency's key, and the deferral of an account that takes no calls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from django.conf import settings
from django.contrib.postgres.functions import TransactionNow
from django.db import Error, connection
from django.db.models import Q
from django.db.models.functions import Greatest, Now
from django.views.decorators.debug import sensitive_variables

from calls.credentials import decrypt, has_key_settings
from calls.database.transactions import database_errors_as, retry_on_deadlock, transaction_with_timeouts
from calls.exceptions import AgencyUpdateFailed, BatchReadFailed, CredentialsUnusable
from calls.models import Agency
from calls.parsing import API_KEY_RULE, is_api_key
from calls.providers import provider_for
from calls.providers.base import Provider
from calls.providers.simulated import SimulatedProvider
from calls.providers.ultravox import UltravoxProvider

# How long a process uses an agency's key, in seconds, before it reads it again.
CACHE_SECONDS = 60.0


@dataclass(frozen=True)
class _Account:
    """The provider with the key of one agency, or the problem with the key. Its ``repr`` shows no key."""

    provider: Provider | None
    problem: str
    expires_at: float


_LOCK = Lock()
_ACCOUNTS: dict[UUID, _Account] = {}
_PAUSED_UNTIL: WeakKeyDictionary[Provider, float] = WeakKeyDictionary()


def get_provider(agency_id: UUID) -> Provider:
    """
    Return the provider with the agency's key. A changed key is used within a minute.

    The key is the result of ULTRAVOX_API_KEY_SQL, or else the key stored with the agency, or else ULTRAVOX_API_KEY.
    Calls are simulated only where no setting for keys is set and no agency has a stored key.

    :raises CredentialsUnusable: the agency has no key, or its key cannot be read or used.
    :raises BatchReadFailed: the database failed.
    """
    account = _get_account(agency_id)
    if account.provider is None:
        raise CredentialsUnusable(account.problem)
    return account.provider


def key_problem(agency_id: UUID, *, read_now: bool = False) -> str | None:
    """
    Return why no call of the agency can be placed with its key, and what to do, or None if there is no such problem.

    :param read_now: read the key now, instead of once a minute.
    :raises BatchReadFailed: the database failed.
    """
    return (_refresh(agency_id) if read_now else _get_account(agency_id)).problem or None


def has_other_key(agency_id: UUID, provider: Provider) -> bool:
    """
    Read the agency's key now, and return whether it is no longer the key of ``provider``.

    If so, a refusal of the old key says nothing about the agency's current account.

    :raises BatchReadFailed: the database failed.
    """
    return _refresh(agency_id).provider is not provider


def pause_here(provider: Provider, pause: timedelta) -> None:
    """Start no call with this provider in this process for this long. Other processes may reach it."""
    _PAUSED_UNTIL[provider] = time.monotonic() + pause.total_seconds()


def is_paused_here(provider: Provider) -> bool:
    """Return whether :func:`pause_here` was called for this provider, and its time is not over."""
    return _PAUSED_UNTIL.get(provider, 0.0) > time.monotonic()


def lookup_after() -> timedelta:
    """Return how long after the start of an attempt its call is looked up, if no end was recorded."""
    return UltravoxProvider.lookup_after if has_key_settings() else SimulatedProvider.lookup_after


@database_errors_as(AgencyUpdateFailed)
def defer_account(agency_id: UUID, pause: timedelta, *, provider: Provider) -> bool:
    """
    Defer the agency's account: start no call with its key for this long.

    This defers the agency and every other agency that, as far as this process knows, uses the same key. Do not call
    this while a batch is locked, and call it outside of a transaction.

    :param provider: the provider that was used for the call.
    :returns: False if the agency has another key by now, so nothing is deferred.
    :raises AgencyUpdateFailed: a database error or timeout; nothing was changed.
    """
    if has_other_key(agency_id, provider):
        return False
    now = time.monotonic()
    with _LOCK:
        known = [pk for pk, account in _ACCOUNTS.items() if account.provider is provider and account.expires_at > now]
    _defer_agencies({agency_id, *known}, pause)
    return True


@retry_on_deadlock
def _defer_agencies(ids: set[UUID], pause: timedelta) -> None:
    until = Now() + pause
    with transaction_with_timeouts():
        earlier = Agency.objects.filter(Q(dial_after=None) | Q(dial_after__lt=until), pk__in=ids)
        # Lock in the order of the ids, so that two concurrent deferrals do not deadlock.
        locked = list(earlier.order_by("pk").select_for_update(no_key=True).values_list("pk", flat=True))
        Agency.objects.filter(pk__in=locked).update(
            dial_after=Greatest("dial_after", until), updated_at=TransactionNow()
        )


def _get_account(agency_id: UUID) -> _Account:
    account = _ACCOUNTS.get(agency_id)
    if account is None or account.expires_at <= time.monotonic():
        account = _refresh(agency_id)
    return account


def _refresh(agency_id: UUID) -> _Account:
    """Read the agency's key and cache the result. Nothing is locked meanwhile, because the statement may be slow."""
    now = time.monotonic()
    try:
        account = _Account(provider_for(_find_key(agency_id)), "", now + CACHE_SECONDS)
    except CredentialsUnusable as unusable:
        account = _Account(None, unusable.text, now + CACHE_SECONDS)
    with _LOCK:
        # Forget the agencies that were not called lately. A provider that no agency uses closes its connections.
        for pk in [pk for pk, known in _ACCOUNTS.items() if known.expires_at <= now]:
            del _ACCOUNTS[pk]
        _ACCOUNTS[agency_id] = account
    return account


@sensitive_variables("key")
def _find_key(agency_id: UUID) -> str | None:
    """Return the agency's key, or None if calls are simulated."""
    key, origin = _key_from_sql(agency_id), "The result of ULTRAVOX_API_KEY_SQL"
    if not key:
        key, origin = _stored_key(agency_id), "The Ultravox key stored with the agency"
    if not key:
        key, origin = settings.ULTRAVOX_API_KEY, "ULTRAVOX_API_KEY"
    if not key:
        if has_key_settings() or _any_key_is_stored():
            raise CredentialsUnusable(
                "The agency has no Ultravox key. Set one in the admin or with manage.py set_ultravox_key"
            )
        return None
    if not is_api_key(key):
        raise CredentialsUnusable(f"{origin} is not a key: it {API_KEY_RULE}")
    return key


@sensitive_variables("rows")
def _key_from_sql(agency_id: UUID) -> Any:
    if not settings.ULTRAVOX_API_KEY_SQL:
        return None
    try:
        with transaction_with_timeouts(), connection.cursor() as cursor:
            cursor.execute(settings.ULTRAVOX_API_KEY_SQL, {"agency_id": agency_id})
            rows = cursor.fetchmany(2)
    except (Error, TypeError, ValueError) as error:
        if not connection.is_usable():
            raise BatchReadFailed from error
        # Hide the cause: the server's message may contain the key. psycopg raises a ValueError for a stray %.
        sqlstate = getattr(error.__cause__, "sqlstate", None) or "no SQLSTATE"
        raise CredentialsUnusable(
            f"ULTRAVOX_API_KEY_SQL failed for the agency ({type(error).__name__}, {sqlstate}). Correct the statement,"
            " or what it reads"
        ) from None
    if len(rows) > 1:
        raise CredentialsUnusable("ULTRAVOX_API_KEY_SQL returned several rows for the agency. It must return one")
    return rows[0][0] if rows else None


@sensitive_variables("token")
def _stored_key(agency_id: UUID) -> str | None:
    with database_errors_as(BatchReadFailed), transaction_with_timeouts():
        agencies = Agency.objects.filter(pk=agency_id)
        token = agencies.values_list("ultravox_api_key_encrypted", flat=True).first()
    return decrypt(bytes(token)) if token else None


@database_errors_as(BatchReadFailed)
def _any_key_is_stored() -> bool:
    with transaction_with_timeouts():
        return Agency.objects.filter(ultravox_api_key_encrypted__isnull=False).exists()
