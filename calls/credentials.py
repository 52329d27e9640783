"""Encryption of the agencies' keys for the provider, with the keys in CREDENTIALS_KEYS."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from calls.exceptions import CredentialsUnusable

NEW_KEY = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'


def has_key_settings() -> bool:
    """Return whether any setting for keys of the provider is set, so that calls must be real."""
    return bool(settings.ULTRAVOX_API_KEY or settings.ULTRAVOX_API_KEY_SQL or settings.CREDENTIALS_KEYS)


def are_usable(keys: list[str]) -> bool:
    """Return whether these can be CREDENTIALS_KEYS: one or more Fernet keys."""
    try:
        MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        return False
    return True


def encrypt(secret: str) -> bytes:
    """
    Encrypt with the newest of CREDENTIALS_KEYS.

    :raises CredentialsUnusable: CREDENTIALS_KEYS is missing or malformed.
    """
    return _fernet().encrypt(secret.encode())


@sensitive_variables("secret")
def decrypt(token: bytes) -> str:
    """
    Return the secret that was encrypted with any of CREDENTIALS_KEYS.

    :raises CredentialsUnusable: CREDENTIALS_KEYS is missing or malformed, or none of its keys fits.
    """
    try:
        secret = _fernet().decrypt(token).decode()
    except (InvalidToken, ValueError):
        # Hide the cause: the text of a decoding error may quote the secret.
        raise CredentialsUnusable(
            "The stored Ultravox key cannot be decrypted: add the key that encrypted it to CREDENTIALS_KEYS, or set the"
            " Ultravox key again"
        ) from None
    return secret


def _fernet() -> MultiFernet:
    if not settings.CREDENTIALS_KEYS:
        raise CredentialsUnusable("CREDENTIALS_KEYS is not set. Ultravox keys cannot be stored or read without it")
    if not are_usable(settings.CREDENTIALS_KEYS):
        raise CredentialsUnusable(
            "CREDENTIALS_KEYS has a value that is not a Fernet key. Ultravox keys cannot be stored or read"
        )
    return MultiFernet([Fernet(key) for key in settings.CREDENTIALS_KEYS])
