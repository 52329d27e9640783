"""Voice providers: Ultravox over HTTP, and a simulated one. ``get_provider`` returns the one that is configured."""

from __future__ import annotations

import logging
from functools import cache
from threading import Lock

from django.conf import settings

from calls.providers.base import Provider
from calls.providers.simulated import SimulatedProvider
from calls.providers.ultravox import UltravoxProvider

logger = logging.getLogger(__name__)

_LOCK = Lock()


def get_provider() -> Provider:
    """Return this process's provider: Ultravox if ULTRAVOX_API_KEY is set, else the simulated one, with a warning."""
    with _LOCK:
        return _create_provider()


@cache
def _create_provider() -> Provider:
    if settings.ULTRAVOX_API_KEY:
        return UltravoxProvider(settings.ULTRAVOX_API_URL, settings.ULTRAVOX_API_KEY, settings.ULTRAVOX_TIMEOUT)
    logger.warning("calls are simulated, no real call is placed: ULTRAVOX_API_KEY is not set")
    return SimulatedProvider()
