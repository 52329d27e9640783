"""The tenant, and the people who sign in to it."""

from __future__ import annotations

from django.db import models

from calls.models.base import BaseModel, EnumTextField


class Agency(BaseModel):
    """The tenant. Every batch, contact and call belongs to one, and keeps it from being deleted."""

    name = models.TextField()
    slug = models.TextField(unique=True)
    webhook_secret = models.TextField(default="", db_default="")
    webhook_signing_secret = models.TextField(null=True, blank=True)
    settings = models.JSONField(default=dict, db_default={}, blank=True)

    class Meta:
        db_table = "agencies"
        verbose_name_plural = "agencies"

    def __str__(self) -> str:
        return self.name or self.slug or str(self.pk)


class Role(models.TextChoices):
    AGENCY_OWNER = "agency_owner"
    AGENCY_ADMIN = "agency_admin"
    AGENCY_MEMBER = "agency_member"
    CLIENT_ADMIN = "client_admin"
    CLIENT_VIEWER = "client_viewer"
    ADMIN = "admin"


# Who may create, pause, resume and cancel the batches of their own agency.
WRITERS = frozenset({Role.AGENCY_OWNER, Role.AGENCY_ADMIN})


class AgencyUser(models.Model):
    """
    Somebody who signs in through Supabase. ``id`` is the ``sub`` of their access token.

    The table is another service's and only read here. It is the API's ``request.user``; staff who sign in to the
    Django admin are ``django.contrib.auth.models.User`` instead.
    """

    id = models.UUIDField(primary_key=True)
    agency = models.ForeignKey(
        Agency, on_delete=models.PROTECT, null=True, blank=True, related_name="users", db_index=False
    )
    role = EnumTextField(choices=Role)
    email = models.TextField()

    class Meta:
        db_table = "users"
        verbose_name = "agency user"

    def __str__(self) -> str:
        return self.email

    @property
    def is_authenticated(self) -> bool:
        """True: whoever has one has shown a valid token, whether or not the row exists."""
        return True
