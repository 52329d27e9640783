import pytest
from cryptography.fernet import Fernet

from calls.tests.support.accounts import BLUEBELL_KEY, HARBOUR_KEY, set_key


@pytest.fixture
def encrypted(settings):
    """Keys can be stored with agencies."""
    settings.CREDENTIALS_KEYS = [Fernet.generate_key().decode()]


@pytest.fixture
def two_accounts(ultravox, settings, encrypted, harbour, bluebell):
    """The provider has an account for each of two agencies, which knows only its own key and agents."""
    settings.ULTRAVOX_API_KEY = ""
    ultravox.accounts = {
        HARBOUR_KEY: {harbour.agent.ultravox_agent_id},
        BLUEBELL_KEY: {bluebell.agent.ultravox_agent_id},
    }
    set_key(harbour, HARBOUR_KEY)
    set_key(bluebell, BLUEBELL_KEY)
    return ultravox
