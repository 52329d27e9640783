"""Load demo data into an empty database, and print how to use it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.api.authentication import issue_token
from calls.management import demo_data
from calls.management.database_errors import database_required
from calls.management.demo_data import OPERATOR, SUPERUSER
from calls.models import Agency, CallBatch
from calls.roles import Role

COMMAND = ".venv/bin/python -m agency_backend.embedded -- .venv/bin/python manage.py cancel_batch"


class Command(BaseCommand):
    help = (
        "Loads two agencies, their users and batches in every status if the database has no agency yet, and prints "
        "how to use them. The passwords are public, so it needs DJANGO_DEBUG."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--address", default="http://127.0.0.1:8000", help="the server's address, to be printed")

    def handle(self, *, address: str, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("the demo's passwords are public, so it needs DJANGO_DEBUG")
        with database_required():
            if not Agency.objects.exists():
                demo_data.load()
            lines = [*addresses(address), "", *next_steps(address), ""]
        self.stdout.write("\n".join(lines))


def addresses(address: str) -> list[str]:
    return [
        f"API    {address}/functions/v1/",
        f"Docs   {address}/docs",
        f"Admin  {address}/admin/  (sign in as {OPERATOR}/{OPERATOR}, or as the superuser {SUPERUSER}/{SUPERUSER})",
    ]


def next_steps(address: str) -> list[str]:
    """Return how to cancel the two largest batches of the first agency that has batches to cancel."""
    agency = Agency.objects.filter(batches__in=CallBatch.objects.cancellable()).order_by("created_at").first()
    if agency is None:
        return ["Every batch is cancelled or completed. To start with new data: make clean"]
    batches = agency.batches.cancellable().order_by("-total_contacts")
    owner = agency.users.get(role=Role.AGENCY_OWNER)
    first, second = batches[0], batches[1:].first()
    lines = [
        f"Cancel a batch with {first.queued} contacts left to dial (the token is valid for a day):",
        "",
        f"curl -X POST {address}/functions/v1/calls-batch-cancel \\",
        f"  -H 'Authorization: Bearer {issue_token(owner, lifetime=timedelta(days=1))}' \\",
        f"""  -d '{{"batch_id": "{first.pk}"}}'""",
    ]
    if second:
        lines += ["", "Cancel another batch with the command:", "", f"{COMMAND} {second.pk}"]
    return lines
