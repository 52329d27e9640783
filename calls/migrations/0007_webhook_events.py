"""What the provider has said of calls, and the queue of the dialler's workers, both closed to the Data API."""

import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
from django.db import migrations, models

CLOSED = [
    "call_webhook_events",
    "procrastinate_events",
    "procrastinate_jobs",
    "procrastinate_periodic_defers",
    "procrastinate_workers",
]


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0006_idempotency_keys"),
        ("procrastinate", "0041_post_retry_failed_job"),
    ]

    operations = [
        migrations.CreateModel(
            name="WebhookEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event", models.TextField()),
                ("ultravox_call_id", models.TextField()),
                ("identity", models.TextField()),
                ("body", models.TextField()),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), default=django.utils.timezone.now
                    ),
                ),
                (
                    "agency",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="calls.agency",
                    ),
                ),
            ],
            options={
                "db_table": "call_webhook_events",
                "indexes": [models.Index(fields=["ultravox_call_id"], name="webhook_event_of_call")],
                "constraints": [models.UniqueConstraint(fields=("agency", "identity"), name="webhook_event_once")],
            },
        ),
        migrations.RunSQL(
            "\n".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in CLOSED),
            migrations.RunSQL.noop,
        ),
    ]
