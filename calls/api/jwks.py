"""The public keys that a Supabase project signs its access tokens with."""

from __future__ import annotations

import logging
import threading
import time
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from jwt import PyJWK, PyJWKClient, PyJWKSet

logger = logging.getLogger(__name__)

LIFETIME = 600.0
PAUSE = 30.0
TIMEOUT = 3.0
MAX_WAITING = 2


class KeySet:
    """
    The keys published at ``uri``, by ``kid``, shared by all threads of the process.

    A set serves for ``lifetime`` seconds, and a thread of its own has fetched the next one before that is over, so
    nobody who has a key waits. An unknown ``kid`` has the set fetched at once; while that goes on, a third caller with
    one is told at once that there is no such key. Two fetches are at least ``pause`` seconds apart, whether or not the
    first succeeded, and each ends within ``timeout`` seconds. While no set can be had (no answer, or one that is not a
    set with a key in it) the last good one serves on, with a warning in the log.

    ``PyJWKClient`` does the fetching; its own cache keeps callers waiting and does not outlast an outage.
    """

    def __init__(self, uri: str, *, lifetime: float = LIFETIME, pause: float = PAUSE, timeout: float = TIMEOUT) -> None:
        self._client = PyJWKClient(uri, cache_jwk_set=False, timeout=timeout)
        self._lifetime, self._pause, self._timeout = lifetime, pause, timeout
        self._keys: dict[str, PyJWK] = {}
        self._last_fetch: float | None = None
        self._fetching = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._renewal: threading.Timer | None = None

    def find(self, kid: Any) -> PyJWK | None:
        """The key with this id, or None: also when the set cannot be had. Raises nothing."""
        if not isinstance(kid, str):
            return None
        return self._keys.get(kid) or self._fetch_for(kid)

    def close(self) -> None:
        """Stop renewing."""
        with self._fetching:
            if self._renewal:
                self._renewal.cancel()

    def _fetch_for(self, kid: str) -> PyJWK | None:
        if not self._keys:
            return self._fetch_unless_known(kid)
        # Forged tokens name unknown keys: they must not keep the threads waiting that others need.
        if not self._waiting.acquire(blocking=False):
            return None
        try:
            return self._fetch_unless_known(kid)
        finally:
            self._waiting.release()

    def _fetch_unless_known(self, kid: str) -> PyJWK | None:
        with self._fetching:
            # Somebody else may have fetched it while this thread waited.
            if kid not in self._keys and not self._pausing():
                self._fetch()
            return self._keys.get(kid)

    def _renew(self) -> None:
        with self._fetching:
            if not self._pausing():
                self._fetch()

    def _pausing(self) -> bool:
        return self._last_fetch is not None and time.monotonic() - self._last_fetch < self._pause

    def _fetch(self) -> None:
        """Fetch the set, within the time allowed, and see to it that the next fetch comes in time."""
        self._last_fetch = time.monotonic()
        sets: list[dict[str, PyJWK]] = []
        # A socket's timeout starts again with every byte, and the resolver has none: so the fetch is left behind
        # when its time is over.
        fetch = threading.Thread(target=self._download, args=(sets,), daemon=True)
        fetch.start()
        fetch.join(self._timeout)
        if sets:
            self._keys = sets[0]
        else:
            logger.warning(
                "no key set at %s: %s",
                self._client.uri,
                "the last good one serves on" if self._keys else "none is known",
            )
        if self._renewal:
            self._renewal.cancel()
        if self._keys:
            # Ahead of its time by what a fetch may take, and by the pause that an unknown kid may have begun.
            soon = self._lifetime - self._pause - 2 * self._timeout if sets else self._pause
            self._renewal = threading.Timer(max(soon, self._pause), self._renew)
            self._renewal.daemon = True
            self._renewal.start()

    def _download(self, sets: list[dict[str, PyJWK]]) -> None:
        try:
            keys = PyJWKSet.from_dict(self._client.fetch_data()).keys
            signing = {key.key_id: key for key in keys if key.key_id and key.public_key_use in ("sig", None)}
            if signing:
                sets.append(signing)
        except Exception as error:  # noqa: BLE001 - whatever comes back, it is not a key set
            logger.debug("%s: %s", self._client.uri, error)


@cache
def key_set() -> KeySet:
    """
    The key set of the configured project.

    :raises PyJWKClientError: ``SUPABASE_URL`` is not an http(s) address.
    """
    return KeySet(f"{settings.SUPABASE_URL}/auth/v1/.well-known/jwks.json")


@receiver(setting_changed)
def _forget_key_set(*, setting: str, **kwargs: Any) -> None:
    if setting == "SUPABASE_URL":
        if key_set.cache_info().currsize:
            key_set().close()
        key_set.cache_clear()
