"""The public keys with which a Supabase project's access tokens are verified (JSON Web Key Set)."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
import time
from concurrent.futures import Future
from functools import cache
from http import HTTPStatus
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from jwt import PyJWK

logger = logging.getLogger(__name__)

# Seconds.
LIFETIME = 600.0
FETCH_INTERVAL = 30.0
FETCH_TIMEOUT = 3.0
MAX_BYTES = 1024 * 1024
# RS256 needs at least this many bits (RFC 7518).
MIN_RSA_BITS = 2048
# Threads that may wait for a fetch because of an unknown key id, while other keys are known.
MAX_WAITING_THREADS = 2


class KeySet:
    """
    The keys published at ``uri``, by key id (``kid``), shared by all threads of the process.

    A set is refreshed before it is ``lifetime`` seconds old. A background thread does that, so no request
    with a known key waits. An unknown key id causes a fetch at once; at most two threads wait for it, and other threads
    get None at once. Two fetches start at least ``fetch_interval`` seconds apart, whether or not the first one
    succeeded, and each takes at most ``fetch_timeout`` seconds.

    A key set is a JSON object with an array ``keys``. It replaces the last set even if none of its keys can be used: a
    project that signs with its secret alone publishes an empty set. If a fetch fails (no answer, or another answer),
    the last good set stays in use and a warning is logged.
    """

    def __init__(
        self,
        uri: str,
        *,
        lifetime: float = LIFETIME,
        fetch_interval: float = FETCH_INTERVAL,
        fetch_timeout: float = FETCH_TIMEOUT,
    ) -> None:
        self._uri = uri
        self._lifetime, self._fetch_interval, self._fetch_timeout = lifetime, fetch_interval, fetch_timeout
        # The system's certificates, because a self-hosted project may use a certificate authority of its own.
        self._ssl_context = ssl.create_default_context()
        # None until a set has been fetched.
        self._keys: dict[str, PyJWK] | None = None
        self._last_fetch: float | None = None
        self._fetch_lock = threading.Lock()
        self._waiting_threads = threading.BoundedSemaphore(MAX_WAITING_THREADS)
        self._refresh_timer: threading.Timer | None = None

    def find(self, kid: Any) -> PyJWK | None:
        """Return the key with this id, or None if it is unknown or no set could be fetched. Never raises."""
        if not isinstance(kid, str):
            return None
        return self._find_known(kid) or self._fetch_unknown(kid)

    def close(self) -> None:
        """Stop fetching new sets in the background."""
        with self._fetch_lock:
            if self._refresh_timer:
                self._refresh_timer.cancel()

    def _find_known(self, kid: str) -> PyJWK | None:
        return self._keys.get(kid) if self._keys else None

    def _fetch_unknown(self, kid: str) -> PyJWK | None:
        if self._keys is None:
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
            if not self._find_known(kid) and not self._fetched_recently():
                self._fetch()
            return self._find_known(kid)

    def _refresh(self) -> None:
        with self._fetch_lock:
            if not self._fetched_recently():
                self._fetch()

    def _fetched_recently(self) -> bool:
        return self._last_fetch is not None and time.monotonic() - self._last_fetch < self._fetch_interval

    def _fetch(self) -> None:
        """Fetch the set within the timeout, and schedule the next fetch."""
        self._last_fetch = time.monotonic()
        download: Future[dict[str, PyJWK]] = Future()
        # The download ends at its timeout, except for a DNS lookup, which cannot be interrupted. So it has a thread,
        # which is abandoned during such a lookup.
        threading.Thread(target=self._download, args=(download,), daemon=True).start()
        try:
            self._keys = download.result(self._fetch_timeout)
            succeeded = True
        except Exception as error:  # noqa: BLE001 - any error means that there is no key set
            succeeded = False
            logger.warning(
                "no key set at %s (%s): %s",
                *(self._uri, str(error) or type(error).__name__),
                "no key is known" if self._keys is None else "the last good set stays in use",
            )
        self._schedule_refresh(succeeded=succeeded)

    def _download(self, download: Future[dict[str, PyJWK]]) -> None:
        try:
            entries = _entries_of(asyncio.run(self._read_answer()))
            keys = {entry["kid"]: key for entry in entries if (key := _usable_key(entry))}
            if len(keys) < len(entries):
                logger.warning(
                    "key set at %s: %d of %d keys cannot be used", self._uri, len(entries) - len(keys), len(entries)
                )
            download.set_result(keys)
        except Exception as error:  # noqa: BLE001 - raised again by _fetch
            download.set_exception(error)

    async def _read_answer(self) -> bytes:
        """
        Return the body of the answer. The connection is closed at the end, after the timeout, and after 1 MB.

        :raises Exception: no answer in time, or one that is not a 200 of at most 1 MB.
        """
        async with (
            asyncio.timeout(self._fetch_timeout),
            httpx.AsyncClient(verify=self._ssl_context) as client,
            # A compressed answer could be small and still fill the memory.
            client.stream("GET", self._uri, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                raise ValueError(f"HTTP {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("more than 1 MB")
        return bytes(body)

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


def _entries_of(answer: bytes) -> list[Any]:
    """:raises ValueError: the answer is not a JSON object with an array ``keys``."""
    # Integers with more digits than Python accepts are valid JSON, so all integers are read as floats.
    parsed = json.loads(answer, parse_int=float)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JSON object with an array of keys")
    return entries


def _usable_key(entry: Any) -> PyJWK | None:
    """Return the key of an entry, or None unless it is a public ES256 or RS256 key with an id."""
    try:
        key = PyJWK(entry)
    except Exception:  # noqa: BLE001 - PyJWT raises exceptions of many types for malformed entries
        return None
    if not (isinstance(key.key_id, str) and key.key_id) or key.public_key_use not in ("sig", None):
        return None
    if entry.get("alg") not in (key.algorithm_name, None):
        return None
    match key.algorithm_name, key.key:
        case "ES256", EllipticCurvePublicKey(curve=SECP256R1()):
            return key
        case "RS256", RSAPublicKey(key_size=bits) if bits >= MIN_RSA_BITS:
            return key
    return None


@cache
def key_set() -> KeySet:
    """Return the key set of the project at ``SUPABASE_URL``, one for the whole process."""
    return KeySet(f"{settings.SUPABASE_URL}/auth/v1/.well-known/jwks.json")


@receiver(setting_changed)
def _forget_key_set(*, setting: str, **kwargs: Any) -> None:
    if setting == "SUPABASE_URL":
        if key_set.cache_info().currsize:
            key_set().close()
        key_set.cache_clear()
