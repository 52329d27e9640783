"""Agencies, which are the tenants, and their users."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import pghistory
from django.contrib.postgres.functions import TransactionNow
from django.db import models, transaction
from django.views.decorators.debug import sensitive_variables

from calls.audit import Actor, ActorKind, Source, audited, history_context
from calls.credentials import encrypt
from calls.database.transactions import database_errors_as, transaction_with_timeouts
from calls.database.writers import wait_for_writers
from calls.exceptions import AgencyNotFound, AgencyUpdateFailed, FieldInvalid, HoldUnconfirmed
from calls.models.base import BaseModel
from calls.models.fields import EnumTextField, ForeignIdField
from calls.models.locking import claim_lock_name
from calls.models.results import HoldResult
from calls.parsing import API_KEY_RULE, is_api_key
from calls.roles import Role
from calls.signals import agency_held, agency_released

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
    # No call of the agency starts until it is released. See hold().
    held_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "agencies"
        verbose_name_plural = "agencies"
        permissions = [
            ("set_ultravox_key", "Can set the Ultravox key of an agency"),
            ("hold_agency", "Can hold and release an agency"),
        ]

    def __str__(self) -> str:
        return self.name or self.slug or str(self.pk)

    @property
    def log_name(self) -> str:
        """How log lines name this agency."""
        return f"agency={self.pk}"

    @audited("hold", signal=agency_held)
    def hold(self, *, actor: Actor, source: Source, reason: str | None = None) -> HoldResult:
        """
        Hold the agency: no call starts in any of its batches until :meth:`release`. Calls in progress continue.

        Once this has returned, no contact of the agency is claimed, by this app or by another service, whatever batch
        it is in. Batches keep their status, and can be created, cancelled, paused and resumed. The time that it takes
        does not depend on their number. An agency that is on hold already keeps its ``held_at``; a ``reason`` is added
        to its history.

        Waits up to 5 seconds for the agency's row, and then up to 5 for claims that began before. A claim of another
        service that is not committed by then may still be committed, which is logged as a warning. Inside a caller's
        transaction, the hold is in force when that transaction commits.

        :param reason: kept in the history.
        :raises AgencyNotFound: the row is gone.
        :raises AgencyUpdateFailed: a database error or timeout; nothing was changed.
        :raises HoldUnconfirmed: the hold is stored, but the wait for this app's open claims, or the count of calls in
            progress, failed. Calling hold again is safe.
        """
        held_at = self._write_hold(TransactionNow(), actor=actor, source=source, reason=reason)
        transaction.on_commit(self._wait_for_claims)
        with database_errors_as(HoldUnconfirmed):
            return HoldResult(self.pk, held_at, self._count_calls_in_progress())

    @audited("release", signal=agency_released)
    def release(self, *, actor: Actor, source: Source) -> HoldResult:
        """
        End the hold of :meth:`hold`. Batches that are paused, cancelled or scheduled for later still start no calls.

        :raises AgencyNotFound: the row is gone.
        :raises AgencyUpdateFailed: a database error or timeout; nothing was changed.
        """
        with database_errors_as(AgencyUpdateFailed), transaction.atomic():
            self._write_hold(None, actor=actor, source=source)
            return HoldResult(self.pk, None, self._count_calls_in_progress())

    @database_errors_as(AgencyUpdateFailed)
    def _write_hold(
        self, held_at: TransactionNow | None, *, actor: Actor, source: Source, reason: str | None = None
    ) -> datetime | None:
        """Write ``held_at`` if this is a change, and the history if it is or has a reason. Return the stored value."""
        with transaction_with_timeouts():
            locked = Agency.objects.select_for_update(no_key=True).only("held_at").filter(pk=self.pk).first()
            if locked is None:
                raise AgencyNotFound
            is_change = (locked.held_at is None) != (held_at is None)
            if is_change:
                Agency.objects.filter(pk=self.pk).update(held_at=held_at, updated_at=TransactionNow())
                locked.refresh_from_db(fields=["held_at"])
            if is_change or reason:
                with history_context(actor=actor, source=source, reason=reason):
                    pghistory.create_event(locked, label="released" if held_at is None else "held")
            return locked.held_at

    def _wait_for_claims(self) -> None:
        """
        Wait for the claims that may have read the agency before the hold was committed.

        :raises HoldUnconfirmed: a claim of this app is still open after 5 seconds, or the database failed.
        """
        with database_errors_as(HoldUnconfirmed):
            name = claim_lock_name(self.pk)
            writers = wait_for_writers("campaign_contacts", subject=f"hold {self.log_name}", lock_name=name)
        if any(writer.has_lock for writer in writers):
            raise HoldUnconfirmed

    def _count_calls_in_progress(self) -> int:
        with transaction_with_timeouts():
            return int(self.contacts.model.objects.with_call_in_progress_of_agency(self.pk).count())

    @sensitive_variables("key")
    def set_ultravox_key(self, key: str, *, actor: Actor, source: Source) -> None:
        """
        Store the key of the agency's own account at the provider, encrypted. Workers use it within a minute.

        Ends the account's deferral. If the new key is for the same account, the provider asks to wait again.

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
        Delete the stored key of the agency's own account at the provider, and end the account's deferral.

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
