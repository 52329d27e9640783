"""The demo's data: two agencies with users, and batches in every status."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from itertools import chain, cycle, islice, product, repeat
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group, User
from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from calls.api.schema import EXAMPLE_AGENT_ID, EXAMPLE_BATCH_ID, EXAMPLE_CAMPAIGN_ID
from calls.audit import Actor, Source, history_context
from calls.models import (
    Agency,
    AgencyPhoneNumber,
    AgencyUser,
    AgentMapping,
    Call,
    CallBatch,
    Campaign,
    CampaignContact,
)
from calls.providers.simulated import SimulatedProvider
from calls.roles import Role, is_client_role
from calls.statuses import DIALABLE, BatchStatus, ContactStatus, Mode, Outcome

# Staff users of the admin. Each user's password is the same as the user name.
SUPERUSER, OPERATOR = "demo", "operator"

FIRST_NAMES = """
    Amara Ben Chloe Dev Elena Farid Grace Hugo Ines Jonas Kaya Liam Mei
    Noor Oscar Priya Quinn Rosa Samir Tessa Uma Viktor Wanda Yusuf Zoe
""".split()
LAST_NAMES = """
    Abbott Ashworth Bianchi Brennan Castillo Cole Dawson Duarte Eriksen Fischer Gupta Hassan Ivanov Jensen Kowalski
    Lindqvist Moreau Nakamura Okafor Petrov Quigley Rossi Silva Tanaka Underwood Vargas Whitfield Xiang Yilmaz Zhang
""".split()
PEOPLE = [(first, last) for last, first in product(LAST_NAMES, FIRST_NAMES)]

# Numbers reserved for fiction: +1 NPA 555 0100 to 0199 in North America, +44 7700 900000 to 900999 in Britain.
AMERICAN = [f"+1{area}5550{line}" for area in (212, 303, 404, 415, 512, 617, 702, 808) for line in range(100, 200)]
BRITISH = [f"+447700900{line:03d}" for line in range(1000)]

# How many contacts of a batch have each status.
Counts = dict[ContactStatus, int]

# The batch that the README cancels: 342 contacts left to dial, 5 calls in progress, 400 called.
README_BATCH: Counts = {
    ContactStatus.QUEUED: 342,
    ContactStatus.IN_PROGRESS: 5,
    ContactStatus.COMPLETED: 371,
    ContactStatus.FAILED: 29,
}


def load() -> None:
    """Store the demo's data in one transaction."""
    actor = Actor.os_user()
    with transaction.atomic(), history_context(actor=actor, source=Source.COMMAND):
        _create_staff()
        _create_american_agency(actor)
        _create_british_agency(actor)


def _create_staff() -> None:
    User.objects.create_superuser(SUPERUSER, "demo@staff.example", SUPERUSER)
    operator = User.objects.create_user(OPERATOR, "operator@staff.example", OPERATOR, is_staff=True)
    operator.groups.add(Group.objects.get(name="Call operators"))


def _create_american_agency(actor: Actor) -> None:
    agency = _create_agency("Harbour & Pine", "harbour-pine", "+12125550199", EXAMPLE_AGENT_ID)
    client_id = uuid7()
    for role in Role:
        name = "platform.admin" if role == Role.ADMIN else role.removeprefix("agency_").replace("_", ".")
        own_client = client_id if is_client_role(role) else None
        _create_user(agency, role, f"{name}@harbour-pine.example", client_id=own_client)
    spring = agency.campaigns.create(pk=EXAMPLE_CAMPAIGN_ID, name="Spring check-in")
    renewals = agency.campaigns.create(name="Policy renewals", client_id=client_id)
    tomorrow = timezone.now() + timedelta(days=1)

    # dial_after keeps workers from changing the numbers that the README shows.
    _create_batch(spring, BatchStatus.PROCESSING, AMERICAN, README_BATCH, pk=EXAMPLE_BATCH_ID, dial_after=tomorrow)
    _create_batch(spring, BatchStatus.PENDING, AMERICAN, {ContactStatus.PENDING: 40})
    _create_batch(
        renewals,
        BatchStatus.SCHEDULED,
        AMERICAN,
        {ContactStatus.SCHEDULED: 120},
        scheduled_for=tomorrow,
        mode=Mode.SCHEDULED,
    )
    paused = _create_batch(
        renewals, BatchStatus.PROCESSING, AMERICAN, {ContactStatus.QUEUED: 60, ContactStatus.COMPLETED: 15}
    )
    paused.pause(actor=actor, source=Source.COMMAND)
    _create_batch(renewals, BatchStatus.COMPLETED, AMERICAN, {ContactStatus.COMPLETED: 85, ContactStatus.FAILED: 5})


def _create_british_agency(actor: Actor) -> None:
    agency = _create_agency("Bluebell Outreach", "bluebell", "+447700900999", uuid7())
    _create_user(agency, Role.AGENCY_OWNER, "owner@bluebell.example")
    invitations = agency.campaigns.create(name="Open day invitations")

    _create_batch(
        invitations, BatchStatus.PROCESSING, BRITISH, {ContactStatus.QUEUED: 210, ContactStatus.COMPLETED: 30}
    )
    _create_batch(
        invitations,
        BatchStatus.FAILED,
        BRITISH,
        {ContactStatus.QUEUED: 24, ContactStatus.FAILED: 6},
        error_message="The caller id was suspended by the carrier",
    )
    cancelled = _create_batch(
        invitations, BatchStatus.PROCESSING, BRITISH, {ContactStatus.QUEUED: 75, ContactStatus.COMPLETED: 25}
    )
    cancelled.cancel(actor=actor, source=Source.COMMAND)


def _create_agency(name: str, slug: str, number: str, agent_id: UUID) -> Agency:
    agency = Agency.objects.create(name=name, slug=slug, webhook_secret=secrets.token_urlsafe(24))
    AgencyPhoneNumber.objects.create(agency=agency, phone_number=number)
    AgentMapping.objects.create(
        pk=agent_id, agency=agency, ultravox_agent_id=f"{slug}-agent", ultravox_agent_name="Robin"
    )
    return agency


def _create_user(agency: Agency, role: Role, email: str, client_id: UUID | None = None) -> None:
    AgencyUser.objects.create(id=uuid7(), agency=agency, role=role, email=email, client_id=client_id)


def _create_batch(
    campaign: Campaign, status: BatchStatus, numbers: list[str], counts: Counts, **fields: Any
) -> CallBatch:
    """Create a batch with these contacts and matching counters. Unless pending or scheduled, it started an hour ago."""
    agency, started_at = campaign.agency, timezone.now() - timedelta(hours=1)
    not_started = status in (BatchStatus.PENDING, BatchStatus.SCHEDULED)
    finished = status in (BatchStatus.COMPLETED, BatchStatus.FAILED)
    batch = CallBatch.objects.create(
        agency=agency,
        campaign=campaign,
        agent_mapping=agency.agent_mappings.get(),
        from_number=agency.phone_numbers.get().phone_number,
        status=status,
        total_contacts=sum(counts.values()),
        queued=sum(count for contact_status, count in counts.items() if contact_status in DIALABLE),
        in_progress=counts.get(ContactStatus.IN_PROGRESS, 0),
        completed=counts.get(ContactStatus.COMPLETED, 0),
        failed=counts.get(ContactStatus.FAILED, 0),
        created_at=started_at - timedelta(minutes=5),
        started_at=None if not_started else started_at,
        completed_at=started_at + timedelta(minutes=50) if finished else None,
        **fields,
    )
    # Each batch starts at another number, so that batches share few numbers.
    people, lines = cycle(PEOPLE), islice(cycle(numbers), CallBatch.objects.count() * 97, None)
    CampaignContact.objects.bulk_create(
        _contact(batch, contact_status, next(lines), *next(people), started_at + timedelta(seconds=2 * index))
        for index, contact_status in enumerate(chain.from_iterable(repeat(*item) for item in counts.items()))
    )
    for contact in batch.contacts.filter(status=ContactStatus.IN_PROGRESS):
        Call.record_placed(contact, SimulatedProvider.new_id(), caller_id=batch.from_number)
    return batch


def _contact(
    batch: CallBatch, status: ContactStatus, number: str, first_name: str, last_name: str, called_at: datetime
) -> CampaignContact:
    """Return an unsaved contact. ``called_at`` is the time of its call, and is ignored if the contact is dialable."""
    contact = CampaignContact(
        agency_id=batch.agency_id,
        campaign_id=batch.campaign_id,
        batch=batch,
        phone_number=number,
        first_name=first_name,
        last_name=last_name,
        status=status,
    )
    if status not in DIALABLE:
        contact.attempts, contact.last_attempt_at = 1, called_at
    if status == ContactStatus.IN_PROGRESS:
        # The last attempt, so that no contact returns to the queue when these calls end.
        contact.attempts = contact.max_attempts
    if status == ContactStatus.COMPLETED:
        contact.outcome, contact.duration_seconds = Outcome.ANSWERED, 45
        contact.completed_at = called_at + timedelta(seconds=60)
    if status == ContactStatus.FAILED:
        contact.outcome, contact.attempts = Outcome.NO_ANSWER, contact.max_attempts
        contact.completed_at = called_at + timedelta(seconds=30)
    return contact
