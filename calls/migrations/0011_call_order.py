"""Index the contacts in their new call order, the calls in progress by agency and number, and the batches to dial."""

import datetime

from django.contrib.postgres.operations import RemoveIndexConcurrently
from django.db import migrations, models
from django.db.models.functions import Coalesce

from calls.database.adoption.operations import add_missing

INDEXES = [
    (
        "call_batches",
        migrations.AddIndex(
            model_name="callbatch",
            index=models.Index(
                condition=models.Q(("status__in", ("pending", "scheduled", "processing"))),
                fields=["agency"],
                name="batch_to_dial",
            ),
        ),
    ),
    (
        "campaign_contacts",
        migrations.AddIndex(
            model_name="campaigncontact",
            index=models.Index(
                models.F("batch"),
                Coalesce(
                    "last_attempt_at",
                    models.Value(
                        datetime.datetime(1, 1, 1, 0, 0, tzinfo=datetime.UTC), output_field=models.DateTimeField()
                    ),
                ),
                models.F("created_at"),
                models.F("id"),
                condition=models.Q(("completed_at", None)),
                name="contact_in_call_order",
            ),
        ),
    ),
    (
        "campaign_contacts",
        migrations.AddIndex(
            model_name="campaigncontact",
            index=models.Index(
                models.Case(
                    models.When(last_attempt_at__isnull=False, outcome=None, batch__isnull=False, then="agency"),
                    output_field=models.UUIDField(),
                ),
                models.F("phone_number"),
                condition=models.Q(("last_attempt_at__isnull", False), ("outcome", None)),
                name="contact_calling_number",
            ),
        ),
    ),
]


class Migration(migrations.Migration):
    # The indexes are built concurrently, while other services write the tables.
    atomic = False

    dependencies = [
        ("calls", "0010_agency_limits_and_accounts"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[operation for _, operation in INDEXES]),
        add_missing(*(f"{model}: index {operation.index.name}" for model, operation in INDEXES)),
        RemoveIndexConcurrently(model_name="campaigncontact", name="contact_not_over"),
    ]
