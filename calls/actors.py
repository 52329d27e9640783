"""Who did it, and through which door: what the history keeps for good."""

from __future__ import annotations

import os
import pwd
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    from calls.models import AgencyUser


class Door(models.TextChoices):
    API = "api"
    ADMIN = "admin"
    COMMAND = "command"


class ActorKind(models.TextChoices):
    AGENCY_USER = "agency_user"
    STAFF = "staff"
    OS_USER = "os_user"


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
