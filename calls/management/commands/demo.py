"""Something to look at and to cancel, in an empty database."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from itertools import chain, cycle, islice, product, repeat
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from calls.api.authentication import issue_token
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
from calls.roles import Role
from calls.statuses import DIALABLE, BatchStatus, ContactStatus, Mode, Outcome

# Each with its own name as the password.
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

Counts = dict[ContactStatus, int]

# The batch to cancel first: 342 left to dial, 5 in progress, 400 done.
MAIN: Counts = {
    ContactStatus.QUEUED: 342,
    ContactStatus.IN_PROGRESS: 5,
    ContactStatus.COMPLETED: 371,
    ContactStatus.FAILED: 29,
}


class Command(BaseCommand):
    help = (
        "Loads two agencies, their users and batches in every status if the database has no agency yet, and prints "
        "how to use them. For a demo: refuses unless DEBUG."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--address", default="http://127.0.0.1:8000", help="where the server will be")

    def handle(self, *, address: str, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("the demo has logins with known passwords; it is made only with DJANGO_DEBUG on")
        if not Agency.objects.exists():
            with transaction.atomic(), history_context(actor=Actor.os_user(), source=Source.COMMAND):
                self._load()
        self._print_how_to_use(address)

    def _load(self) -> None:
        User.objects.create_superuser(SUPERUSER, "demo@staff.example", SUPERUSER)
        operator = User.objects.create_user(OPERATOR, "operator@staff.example", OPERATOR, is_staff=True)
        operator.groups.add(Group.objects.get(name="Call operators"))
        harbour = self._agency("Harbour & Pine", "harbour-pine", "+12125550199", EXAMPLE_AGENT_ID)
        for role in Role:
            name = "platform.admin" if role == Role.ADMIN else role.removeprefix("agency_").replace("_", ".")
            self._user(harbour, role, f"{name}@harbour-pine.example")
        bluebell = self._agency("Bluebell Outreach", "bluebell", "+447700900999", uuid7())
        self._user(bluebell, Role.AGENCY_OWNER, "owner@bluebell.example")

        tomorrow = timezone.now() + timedelta(days=1)
        spring = harbour.campaigns.create(pk=EXAMPLE_CAMPAIGN_ID, name="Spring check-in")
        renewals = harbour.campaigns.create(name="Policy renewals")
        # Held back, as if the provider had asked for it: a worker would change the numbers that the README shows.
        self._batch(spring, BatchStatus.PROCESSING, AMERICAN, MAIN, pk=EXAMPLE_BATCH_ID, dial_after=tomorrow)
        self._batch(spring, BatchStatus.PENDING, AMERICAN, {ContactStatus.PENDING: 40})
        self._batch(
            renewals,
            BatchStatus.SCHEDULED,
            AMERICAN,
            {ContactStatus.SCHEDULED: 120},
            scheduled_for=tomorrow,
            mode=Mode.SCHEDULED,
        )
        waits = self._batch(
            renewals, BatchStatus.PROCESSING, AMERICAN, {ContactStatus.QUEUED: 60, ContactStatus.COMPLETED: 15}
        )
        waits.pause(actor=Actor.os_user(), source=Source.COMMAND)
        self._batch(renewals, BatchStatus.COMPLETED, AMERICAN, {ContactStatus.COMPLETED: 85, ContactStatus.FAILED: 5})
        invitations = bluebell.campaigns.create(name="Open day invitations")
        self._batch(
            invitations, BatchStatus.PROCESSING, BRITISH, {ContactStatus.QUEUED: 210, ContactStatus.COMPLETED: 30}
        )
        self._batch(
            invitations,
            BatchStatus.FAILED,
            BRITISH,
            {ContactStatus.QUEUED: 24, ContactStatus.FAILED: 6},
            error_message="The caller id was suspended by the carrier",
        )
        wrong_list = self._batch(
            invitations, BatchStatus.PROCESSING, BRITISH, {ContactStatus.QUEUED: 75, ContactStatus.COMPLETED: 25}
        )
        wrong_list.cancel(actor=Actor.os_user(), source=Source.COMMAND)

    def _agency(self, name: str, slug: str, number: str, agent_id: UUID) -> Agency:
        agency = Agency.objects.create(name=name, slug=slug, webhook_secret=secrets.token_urlsafe(24))
        AgencyPhoneNumber.objects.create(agency=agency, phone_number=number)
        AgentMapping.objects.create(
            pk=agent_id, agency=agency, ultravox_agent_id=f"{slug}-agent", ultravox_agent_name="Robin"
        )
        return agency

    def _user(self, agency: Agency, role: Role, email: str) -> None:
        AgencyUser.objects.create(id=uuid7(), agency=agency, role=role, email=email)

    def _batch(
        self, campaign: Campaign, status: BatchStatus, numbers: list[str], counts: Counts, **fields: Any
    ) -> CallBatch:
        """A batch whose contacts and counters agree, begun an hour ago unless it waits."""
        agency, begun = campaign.agency, timezone.now() - timedelta(hours=1)
        waiting = status in (BatchStatus.PENDING, BatchStatus.SCHEDULED)
        ended = begun + timedelta(minutes=50) if status in (BatchStatus.COMPLETED, BatchStatus.FAILED) else None
        batch = CallBatch.objects.create(
            agency=agency,
            campaign=campaign,
            agent_mapping=agency.agent_mappings.get(),
            from_number=agency.phone_numbers.get().phone_number,
            status=status,
            total_contacts=sum(counts.values()),
            queued=sum(count for contact, count in counts.items() if contact in DIALABLE),
            in_progress=counts.get(ContactStatus.IN_PROGRESS, 0),
            completed=counts.get(ContactStatus.COMPLETED, 0),
            failed=counts.get(ContactStatus.FAILED, 0),
            created_at=begun - timedelta(minutes=5),
            started_at=None if waiting else begun,
            completed_at=ended,
            **fields,
        )
        # Another batch, other people: a number that complains is then on few lists.
        people, lines = cycle(PEOPLE), islice(cycle(numbers), CallBatch.objects.count() * 97, None)
        CampaignContact.objects.bulk_create(
            self._contact(batch, contact, next(lines), *next(people), called=begun + timedelta(seconds=2 * index))
            for index, contact in enumerate(chain.from_iterable(repeat(*item) for item in counts.items()))
        )
        for contact in batch.contacts.filter(status=ContactStatus.IN_PROGRESS):
            Call.record_placed(contact, SimulatedProvider.new_id(), caller_id=batch.from_number)
        return batch

    def _contact(
        self, batch: CallBatch, status: ContactStatus, number: str, first: str, last: str, *, called: datetime
    ) -> CampaignContact:
        contact = CampaignContact(
            agency_id=batch.agency_id,
            campaign_id=batch.campaign_id,
            batch=batch,
            phone_number=number,
            first_name=first,
            last_name=last,
            status=status,
        )
        if status not in DIALABLE:
            contact.attempts, contact.last_attempt_at = 1, called
        if status == ContactStatus.IN_PROGRESS:
            # The last, so that nobody waits again once these calls are over.
            contact.attempts = contact.max_attempts
        if status == ContactStatus.COMPLETED:
            contact.outcome, contact.duration_seconds = Outcome.ANSWERED, 45
            contact.completed_at = called + timedelta(seconds=60)
        if status == ContactStatus.FAILED:
            contact.outcome, contact.attempts = Outcome.NO_ANSWER, contact.max_attempts
            contact.completed_at = called + timedelta(seconds=30)
        return contact

    def _print_how_to_use(self, address: str) -> None:
        lines = [
            f"API    {address}/functions/v1/",
            f"Docs   {address}/docs",
            f"Admin  {address}/admin/  (sign in as {OPERATOR}/{OPERATOR}, or as the superuser {SUPERUSER}/{SUPERUSER})",
        ]
        agency = Agency.objects.filter(batches__in=CallBatch.objects.cancellable()).order_by("created_at").first()
        if agency is None:
            lines += ["", "Every batch is cancelled or completed. To start afresh: make clean"]
        else:
            lines += ["", *self._how_to_cancel(address, agency)]
        self.stdout.write("\n".join([*lines, ""]))

    def _how_to_cancel(self, address: str, agency: Agency) -> list[str]:
        batches = agency.batches.cancellable().order_by("-total_contacts")
        owner = agency.users.get(role=Role.AGENCY_OWNER)
        first, second = batches[0], batches[1:].first()
        lines = [
            f"Cancel a batch with {first.queued} contacts left to dial (the token is good for a day):",
            "",
            f"curl -X POST {address}/functions/v1/calls-batch-cancel \\",
            f"  -H 'Authorization: Bearer {issue_token(owner, lifetime=timedelta(days=1))}' \\",
            f"""  -d '{{"batch_id": "{first.pk}"}}'""",
        ]
        if second:
            command = ".venv/bin/python -m agency_backend.embedded -- .venv/bin/python manage.py cancel_batch"
            lines += ["", "And another, with the command:", "", f"{command} {second.pk}"]
        return lines
