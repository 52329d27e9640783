import pytest

from calls.database import writers
from calls.database.transactions import set_timeouts


@pytest.fixture
def short_lock_timeout(monkeypatch):
    """Each statement waits at most 0.3 seconds for a lock."""
    monkeypatch.setitem(set_timeouts.__kwdefaults__, "lock", 0.3)


@pytest.fixture
def short_wait(monkeypatch):
    """A pause or a hold waits at most 0.3 seconds for transactions that write contacts."""
    monkeypatch.setattr(writers, "WAIT", 0.3)
