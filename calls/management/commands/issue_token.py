"""Print an access token for local work, in the form that Supabase issues."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from calls.api.authentication import issue_token
from calls.management.database_errors import database_required
from calls.models import AgencyUser


class Command(BaseCommand):
    help = (
        "Prints an access token like Supabase's, signed with SUPABASE_JWT_SECRET. For local work: needs DJANGO_DEBUG."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help="the email of the token's user in the users table")

    def handle(self, *, email: str, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("tokens are issued only with DJANGO_DEBUG on; in production Supabase issues them")
        if not settings.SUPABASE_JWT_SECRET:
            raise CommandError("set SUPABASE_JWT_SECRET, which signs the token")
        with database_required():
            users = list(AgencyUser.objects.filter(email__iexact=email))
        if len(users) != 1:
            raise CommandError(f"{len(users)} rows of the users table have the email {email}, instead of one")
        self.stdout.write(issue_token(users[0]))
