"""Sessions in the database."""

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    """Ignores malformed session keys instead of sending them to PostgreSQL, which refuses some characters."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key if session_key and session_key.isalnum() else None)
