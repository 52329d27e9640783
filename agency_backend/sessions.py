"""Sessions in the database, for whatever a cookie says."""

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    """One that does not ask the database for a key that it cannot have given, and that may hold what it cannot take."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key if session_key and session_key.isalnum() else None)
