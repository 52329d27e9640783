"""Agencies, users, batches and contacts for tests, and shortcuts for common actions on them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count as count_from
from pathlib import Path
from typing import Any

import psycopg
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models import F
from rest_framework.test import APIClient

from calls.api.authentication import issue_token
from calls.audit import Actor, ActorKind, Source
from calls.inputs import NewContact
from calls.models import (
    Agency,
    AgencyPhoneNumber,
    AgencyUser,
    AgentMapping,
    CallBatch,
    Campaign,
    CampaignContact,
    CancelResult,
    PauseResult,
)
from calls.roles import Role
from calls.statuses import DIALABLE, BatchStatus, ContactStatus

ROOT = Path(__file__).resolve().parents[3]
FUNCTIONS = "/functions/v1/calls-batch-"
URL = f"{FUNCTIONS}cancel"
PHONE = "+12125550100"
CALLER_ID = "+12125550199"
CLIENT_ROLES = (Role.CLIENT_ADMIN, Role.CLIENT_VIEWER)
STAFF_ACTOR = Actor(ActorKind.STAFF, "7", "a staff user")


@dataclass
class Tenant:
    """An agency with everything that a batch needs. The campaign is for the client that CLIENT_ROLES belong to."""

    agency: Agency
    campaign: Campaign
    agent: AgentMapping
    users: dict[Role, AgencyUser] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count_from(int(PHONE)))

    @classmethod
    def create(cls, slug: str) -> Tenant:
        agency, client_id = Agency.objects.create(name=slug.title(), slug=slug), uuid.uuid4()
        AgencyPhoneNumber.objects.create(agency=agency, phone_number=CALLER_ID)
        return cls(
            agency=agency,
            campaign=Campaign.objects.create(agency=agency, name="Spring", client_id=client_id),
            agent=AgentMapping.objects.create(agency=agency, ultravox_agent_id=f"{slug}-agent"),
            users={
                role: AgencyUser.objects.create(
                    id=uuid.uuid4(),
                    agency=agency,
                    role=role,
                    client_id=client_id if role in CLIENT_ROLES else None,
                    email=f"{role}@{slug}.example",
                )
                for role in Role
            },
        )

    @property
    def owner(self) -> AgencyUser:
        return self.users[Role.AGENCY_OWNER]

    def for_client(self, client_id: uuid.UUID | None) -> Tenant:
        """Return the same agency and users with another campaign, which is for this client or for none."""
        return replace(self, campaign=Campaign.objects.create(agency=self.agency, name="Autumn", client_id=client_id))

    def batch(self, status: BatchStatus = BatchStatus.PROCESSING, /, **contacts: int) -> CallBatch:
        """Create a batch with contacts by status and matching counters: ``batch(queued=3, completed=1)``."""
        batch = CallBatch.objects.create(
            agency=self.agency,
            campaign=self.campaign,
            agent_mapping=self.agent,
            from_number=CALLER_ID,
            # High enough not to delay any test.
            calls_per_minute=1000,
            max_concurrent=1000,
            total_contacts=sum(contacts.values()),
            queued=sum(contacts.get(dialable, 0) for dialable in DIALABLE),
            **{name: contacts.get(name, 0) for name in ("in_progress", "completed", "failed", "skipped")},
        )
        CampaignContact.objects.bulk_create(
            self.contact(batch, status=status) for status, count in contacts.items() for _ in range(count)
        )
        if status != batch.status:
            # Set the status last: a guard refuses contacts that are dialable or in progress in a finished batch.
            batch.status = status
            batch.save(update_fields=["status"])
        return batch

    def create_body(self, *numbers: str, **fields: Any) -> dict[str, Any]:
        """Return the body of a request that creates a batch of this tenant, with these numbers or a default one."""
        return {
            "agent_mapping_id": str(self.agent.pk),
            "campaign_id": str(self.campaign.pk),
            "from_number": CALLER_ID,
            "contacts": [{"phone_number": number} for number in numbers or [PHONE]],
        } | fields

    def contact(self, batch: CallBatch | None, **fields: Any) -> CampaignContact:
        """Return a contact that is not saved. The first one has the number ``PHONE``, each other the next number."""
        fields = {"status": ContactStatus.QUEUED, "phone_number": f"+{next(self.numbers)}"} | fields
        return CampaignContact(agency=self.agency, campaign=self.campaign, batch=batch, **fields)


def client_of(user: AgencyUser) -> APIClient:
    """Return an API client that sends the user's token."""
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue_token(user)}")
    return client


def staff(name: str, *permissions: str) -> User:
    """Create a user who can sign in to the admin and has these permissions of the app."""
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="calls", codename__in=permissions))
    return user


def new_contacts(count: int) -> list[NewContact]:
    """Return ``count`` contacts to add to a batch, each with a different number."""
    return [NewContact(phone_number=f"+1212555{index:07d}") for index in range(count)]


def call(client: APIClient, function: str, body: Any = None, **headers: str) -> Any:
    """Send a POST request to an API function: ``call(owner, "pause", {"batch_id": …})``."""
    return client.generic("POST", f"{FUNCTIONS}{function}", json.dumps(body), headers=headers)


def cancel(batch: CallBatch) -> CancelResult:
    return batch.cancel(actor=STAFF_ACTOR, source=Source.API)


def pause(batch: CallBatch) -> PauseResult:
    return batch.pause(actor=STAFF_ACTOR, source=Source.API)


def resume(batch: CallBatch) -> PauseResult:
    return batch.resume(actor=STAFF_ACTOR, source=Source.API)


def checked_counters(batch: CallBatch) -> dict[str, int]:
    """Assert that the counters match a fresh count of the contacts. Return those that are not 0."""
    counters = batch.contacts.counters()
    assert CallBatch.objects.values(*counters).get(pk=batch.pk) == counters
    return {name: number for name, number in counters.items() if number}


def count(batch: CallBatch, *statuses: ContactStatus) -> int:
    return batch.contacts.filter(status__in=statuses).count()


def batch_snapshot(batch: CallBatch) -> list[Any]:
    """Return all columns of the batch, its contacts and its history, to compare before and after."""
    return [
        list(CallBatch.objects.filter(pk=batch.pk).values()),
        list(batch.contacts.order_by("pk").values()),
        list(batch.events.order_by("pk").values()),
    ]


def backdate_attempts(batch: CallBatch, by: timedelta) -> None:
    """Move the latest attempts of all contacts of the batch into the past."""
    batch.contacts.update(last_attempt_at=F("last_attempt_at") - by)


def address() -> dict[str, Any]:
    """Return psycopg's connection parameters for the test's database."""
    parameters = connection.get_connection_params()
    names = ("dbname", "user", "password", "host", "port")
    return {name: parameters[name] for name in names if parameters.get(name)}


@contextmanager
def plain_connection(**settings: Any) -> Iterator[psycopg.Connection]:
    """Open a connection to the test's database without Django, as another service would."""
    with psycopg.connect(autocommit=True, **address() | settings) as plain:
        yield plain
