"""The public keys with which a Supabase project's access tokens are verified (JSON Web Key Set)."""

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

# Seconds.
LIFETIME = 600.0
FETCH_INTERVAL = 30.0
FETCH_TIMEOUT = 3.0
# Threads that may wait for a fetch because of an unknown key id, while other keys are known.
MAX_WAITING_THREADS = 2


class KeySet:
    """
    The keys published at ``uri``, by key id (``kid``), shared by all threads of the process.

    A set is used for at most ``lifetime`` seconds. A background thread fetches the next one before that, so no request
    with a known key waits. An unknown key id causes a fetch at once; at most two threads wait for it, and other threads
    get None at once. Two fetches start at least ``fetch_interval`` seconds apart, whether or not the first one
    succeeded, and each takes at most ``fetch_timeout`` seconds. If a fetch fails (no answer, or an answer without a
    usable key), the last good set stays in use and a warning is logged.

    ``PyJWKClient`` only fetches. Its own cache would make requests wait, and it loses the keys in an outage.
    """

    def __init__(
        self,
        uri: str,
        *,
        lifetime: float = LIFETIME,
        fetch_interval: float = FETCH_INTERVAL,
        fetch_timeout: float = FETCH_TIMEOUT,
    ) -> None:
        self._client = PyJWKClient(uri, cache_jwk_set=False, timeout=fetch_timeout)
        self._lifetime, self._fetch_interval, self._fetch_timeout = lifetime, fetch_interval, fetch_timeout
        self._keys: dict[str, PyJWK] = {}
        self._last_fetch: float | None = None
        self._fetch_lock = threading.Lock()
        self._waiting_threads = threading.BoundedSemaphore(MAX_WAITING_THREADS)
        self._refresh_timer: threading.Timer | None = None

    def find(self, kid: Any) -> PyJWK | None:
        """Return the key with this id, or None if it is unknown or no set could be fetched. Never raises."""
        if not isinstance(kid, str):
            return None
        return self._keys.get(kid) or self._fetch_unknown(kid)

    def close(self) -> None:
        """Stop fetching new sets in the background."""
        with self._fetch_lock:
            if self._refresh_timer:
                self._refresh_timer.cancel()

    def _fetch_unknown(self, kid: str) -> PyJWK | None:
        if not self._keys:
            return self._wait_for_fetch(kid)
        # Forged tokens name unknown keys. They must not occupy the threads that other requests need.
        if not self._waiting_threads.acquire(blocking=False):
            return None
        try:
            return self._wait_for_fetch(kid)
        finally:
            self._waiting_threads.release()

    def _wait_for_fetch(self, kid: str) -> PyJWK | None:
        with self._fetch_lock:
            # Another thread may have fetched the key while this one waited for the lock.
            if kid not in self._keys and not self._fetched_recently():
                self._fetch()
            return self._keys.get(kid)

    def _refresh(self) -> None:
        with self._fetch_lock:
            if not self._fetched_recently():
                self._fetch()

    def _fetched_recently(self) -> bool:
        return self._last_fetch is not None and time.monotonic() - self._last_fetch < self._fetch_interval

    def _fetch(self) -> None:
        """Fetch the set within the timeout, and schedule the next fetch."""
        self._last_fetch = time.monotonic()
        downloaded: list[dict[str, PyJWK]] = []
        # A socket timeout starts again with every byte, and the DNS resolver has none. So the download has a thread,
        # which is abandoned after the timeout.
        download = threading.Thread(target=self._download, args=(downloaded,), daemon=True)
        download.start()
        download.join(self._fetch_timeout)
        if downloaded:
            self._keys = downloaded[0]
        else:
            logger.warning(
                "no key set at %s: %s",
                self._client.uri,
                "the last good set stays in use" if self._keys else "no key is known",
            )
        self._schedule_refresh(succeeded=bool(downloaded))

    def _download(self, downloaded: list[dict[str, PyJWK]]) -> None:
        try:
            keys = PyJWKSet.from_dict(self._client.fetch_data()).keys
            signing_keys = {key.key_id: key for key in keys if key.key_id and key.public_key_use in ("sig", None)}
            if signing_keys:
                downloaded.append(signing_keys)
        except Exception as error:  # noqa: BLE001 - any error means that there is no key set
            logger.debug("%s: %s", self._client.uri, error)

    def _schedule_refresh(self, *, succeeded: bool) -> None:
        if self._refresh_timer:
            self._refresh_timer.cancel()
        if not self._keys:
            return
        # The next set must arrive before this set expires. An unknown key id may delay that fetch by the interval.
        delay = self._lifetime - self._fetch_interval - 2 * self._fetch_timeout if succeeded else self._fetch_interval
        self._refresh_timer = threading.Timer(max(delay, self._fetch_interval), self._refresh)
        self._refresh_timer.daemon = True
        self._refresh_timer.start()


@cache
def key_set() -> KeySet:
    """
    Return the key set of the project at ``SUPABASE_URL``, one for the whole process.

    :raises PyJWKClientError: ``SUPABASE_URL`` is not an http(s) URL.
    """
    return KeySet(f"{settings.SUPABASE_URL}/auth/v1/.well-known/jwks.json")


@receiver(setting_changed)
def _forget_key_set(*, setting: str, **kwargs: Any) -> None:
    if setting == "SUPABASE_URL":
        if key_set.cache_info().currsize:
            key_set().close()
        key_set.cache_clear()
