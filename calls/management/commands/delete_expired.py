"""Delete the rows whose retention is over, without a worker."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from calls.cleanup import delete_expired
from calls.exceptions import CallsError
from calls.management.database_errors import database_required


class Command(BaseCommand):
    help = (
        "Deletes webhook events that are older than WEBHOOK_EVENT_RETENTION, idempotency keys that are older than "
        "IDEMPOTENCY_KEY_RETENTION, and expired sessions of the admin. For cron, once a night, where no worker runs. "
        "Prints the result as a JSON object. Exits with 1 after a database error."
    )

    @database_required()
    def handle(self, **options: Any) -> None:
        try:
            result = delete_expired()
        except CallsError as failed:
            raise CommandError(f"{failed} ({failed.code}): run it again to delete the rest") from None
        deleted = {"webhook_events": result.webhook_events, "idempotency_keys": result.idempotency_keys}
        self.stdout.write(json.dumps(deleted))
