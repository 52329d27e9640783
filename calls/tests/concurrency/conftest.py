import pytest

from calls.database import writers
from calls.database.transactions import set_timeouts


@pytest.fixture
def short_lock_timeout(monkeypatch):
    """Each statement waits for a lock for 0.3 seconds."""
    monkeypatch.setitem(set_timeouts.__kwdefaults__, "lock", 0.3)


@pytest.fixture
def short_wait(monkeypatch):
    """A pause or a hold waits for transactions that write contacts for 0.3 seconds."""
    monkeypatch.setattr(writers, "WAIT", 0.3)
