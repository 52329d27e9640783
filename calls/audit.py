"""Who did it, and through which door: what the history keeps for good."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pghistory
from django.db import connection, models

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from calls.models import AgencyUser


class Door(models.TextChoices):
    API = "api", "API"
    ADMIN = "admin"
    COMMAND = "command"
    # Nobody's door: what a batch does by itself while it is dialled.
    DIALLER = "dialler"


class ActorKind(models.TextChoices):
    AGENCY_USER = "agency_user"
    STAFF = "staff"
    OS_USER = "os_user", "Operating system user"


@dataclass(frozen=True)
class Actor:
    """Somebody who changes a batch. ``id`` identifies them within their kind, ``label`` is what a person reads."""

    kind: ActorKind
    id: str
    label: str

    @classmethod
    def agency_user(cls, user: AgencyUser) -> Actor:
        """Somebody who came with a Supabase access token."""
        return cls(ActorKind.AGENCY_USER, str(user.pk), user.email or "")

    @classmethod
    def staff(cls, user: User) -> Actor:
        """Somebody who has signed in to the Django admin."""
        return cls(ActorKind.STAFF, str(user.pk), user.get_username())

    @classmethod
    def os_user(cls) -> Actor:
        """Whoever runs this process, as the operating system knows them, and not as the environment says."""
        uid = os.getuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = f"uid {uid}"
        return cls(ActorKind.OS_USER, str(uid), name)

    def as_dict(self) -> dict[str, str]:
        """``{"kind", "id", "label"}``, as the history stores it."""
        return {key: str(value) for key, value in asdict(self).items()}


@contextmanager
def history_context(**metadata: Any) -> Iterator[None]:
    """
    What the history says of the changes made inside, and of no other.

    ``pghistory.context`` alone would say it of all that follows in the same transaction, or in a context that the
    caller has opened.
    """
    with pghistory.context() as context:
        callers = dict(context.metadata)
        context.metadata.update(metadata)
        try:
            yield
        finally:
            context.metadata.clear()
            context.metadata.update(callers)
    if connection.savepoint_ids:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('pghistory.context_metadata', '', true)")
