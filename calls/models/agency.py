"""Agencies, which are the tenants, and their users."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.postgres.functions import TransactionNow
from django.db import models
from django.views.decorators.debug import sensitive_variables

from calls.audit import Actor, ActorKind, Source
from calls.credentials import encrypt
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.exceptions import AgencyNotFound, AgencyUpdateFailed, FieldInvalid
from calls.models.base import BaseModel
from calls.models.fields import EnumTextField, ForeignIdField
from calls.parsing import API_KEY_RULE, is_api_key
from calls.roles import Role

logger = logging.getLogger(__name__)


class Agency(BaseModel):
    """A tenant. Django refuses to delete an agency while users, campaigns, batches or other rows refer to it."""

    name = models.TextField()
    slug = models.TextField(unique=True)
    webhook_secret = models.TextField(default="", db_default="")
    webhook_signing_secret = models.TextField(null=True, blank=True)
    settings = models.JSONField(default=dict, db_default={}, blank=True)
    # The most calls in progress in all batches of the agency. NULL means no limit.
    max_concurrent_calls = models.IntegerField(null=True, blank=True)
    # The key of the agency's own account at the provider, encrypted with CREDENTIALS_KEYS.
    ultravox_api_key_encrypted = models.BinaryField(null=True, blank=True)
    # No call of the agency starts before this time: the provider asked its account to wait.
    dial_after = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "agencies"
        verbose_name_plural = "agencies"
        permissions = [("set_ultravox_key", "Can set the Ultravox key of an agency")]

    def __str__(self) -> str:
        return self.name or self.slug or str(self.pk)

    @sensitive_variables("key")
    def set_ultravox_key(self, key: str, *, actor: Actor, source: Source) -> None:
        """
        Store the key of the agency's own account at the provider, encrypted. Workers use it within a minute.

        Ends the hold of the account. If the new key is for the same account, the provider asks to wait again.

        :raises FieldInvalid: ``key`` cannot be a key; nothing was changed.
        :raises CredentialsUnusable: CREDENTIALS_KEYS cannot encrypt it; nothing was changed.
        :raises AgencyNotFound: the agency is gone.
        :raises AgencyUpdateFailed: a database error or timeout; nothing was changed.
        """
        if not is_api_key(key):
            raise FieldInvalid("key", API_KEY_RULE)
        self._write_account(ultravox_api_key_encrypted=encrypt(key))
        _log("set_ultravox_key", self, actor, source)

    def remove_ultravox_key(self, *, actor: Actor, source: Source) -> None:
        """
        Delete the stored key of the agency's own account at the provider, and end the hold of the account.

        :raises AgencyNotFound: the agency is gone.
        :raises AgencyUpdateFailed: a database error or timeout; nothing was changed.
        """
        self._write_account(ultravox_api_key_encrypted=None)
        _log("remove_ultravox_key", self, actor, source)

    @database_errors_as(AgencyUpdateFailed)
    def _write_account(self, **columns: Any) -> None:
        with transaction_with_timeouts():
            agency = Agency.objects.filter(pk=self.pk)
            if not agency.update(dial_after=None, updated_at=TransactionNow(), **columns):
                raise AgencyNotFound


def _log(verb: str, agency: Agency, actor: Actor, source: Source) -> None:
    logger.info("%s agency=%s source=%s actor=%s:%s", verb, agency.pk, source, actor.kind, actor.id)


class AgencyUser(models.Model):
    """
    A user who signs in through Supabase. ``id`` is the ``sub`` of the access token.

    The API's ``request.user``. The table belongs to another service and is only read here. Staff who sign in to the
    Django admin are ``django.contrib.auth.models.User`` instead.
    """

    id = models.UUIDField(primary_key=True)
    agency = models.ForeignKey(
        Agency, on_delete=models.PROTECT, null=True, blank=True, related_name="users", db_index=False
    )
    role = EnumTextField(choices=Role)
    # The client of the agency that the user belongs to. See CallBatchQuerySet.visible_to.
    client_id = ForeignIdField(null=True, blank=True)
    email = models.TextField()

    # Not a column: the third-party OAuth client that sends the request for this user.
    oauth_client_id: str | None = None

    class Meta:
        db_table = "users"
        verbose_name = "agency user"

    def __str__(self) -> str:
        return self.email or str(self.pk)

    @property
    def is_authenticated(self) -> bool:
        """Always true, for DRF: the API creates instances only for valid tokens. The row may not exist."""
        return True

    def as_actor(self) -> Actor:
        """Return the actor that the history and the log record for this user."""
        return Actor(ActorKind.AGENCY_USER, str(self.pk), self.email or "", client_id=self.oauth_client_id)
