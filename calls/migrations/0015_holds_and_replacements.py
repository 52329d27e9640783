"""Add ``agencies.held_at`` and ``call_batches.replaces_id``."""

import django.db.models.deletion
from django.db import migrations, models

from calls.database.adoption.operations import add_missing


class Migration(migrations.Migration):
    # Other services are writing these tables, so each step has its own transaction.
    atomic = False

    dependencies = [("calls", "0014_calls_by_contact")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField("agency", "held_at", models.DateTimeField(blank=True, null=True)),
                migrations.AddField(
                    model_name="callbatch",
                    name="replaces",
                    field=models.OneToOneField(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="replaced_by",
                        to="calls.callbatch",
                    ),
                ),
            ]
        ),
        add_missing(
            "agencies: column held_at",
            "call_batches: column replaces_id",
            "call_batches: index call_batches_replaces_id_unique",
        ),
    ]
