"""Voice providers: Ultravox over HTTP, and a simulated one. ``provider_for`` returns the one for a key."""

from __future__ import annotations

import logging
from functools import cache
from hashlib import sha256
from threading import Lock
from weakref import WeakValueDictionary

from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from calls.providers.base import Provider
from calls.providers.simulated import SimulatedProvider
from calls.providers.ultravox import UltravoxProvider

logger = logging.getLogger(__name__)

_LOCK = Lock()
# The providers of this process that are in use, by a hash of their key and by the settings that they were created with.
# A provider that nothing refers to any more closes its connections.
_PROVIDERS: WeakValueDictionary[tuple[str, float, bytes], UltravoxProvider] = WeakValueDictionary()


@sensitive_variables("key")
def provider_for(key: str | None) -> Provider:
    """
    Return this process's provider for a key of Ultravox, or for None the simulated one, with a warning.

    As long as a provider is in use, the same key gets the same provider, and so the same connections.

    :param key: must satisfy :func:`calls.parsing.is_api_key`.
    """
    with _LOCK:
        if key is None:
            return _simulated_provider()
        url, timeout = settings.ULTRAVOX_API_URL, settings.ULTRAVOX_TIMEOUT
        name = (url, timeout, sha256(key.encode()).digest())
        provider = _PROVIDERS.get(name)
        if provider is None:
            provider = _PROVIDERS[name] = UltravoxProvider(url, key, timeout)
        return provider


@cache
def _simulated_provider() -> SimulatedProvider:
    logger.warning("calls are simulated, no real call is placed: no key for Ultravox is set")
    return SimulatedProvider()
