"""What was asked for under which Idempotency-Key, and how it was answered."""

import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("calls", "0005_call_operators")]

    operations = [
        migrations.CreateModel(
            name="IdempotencyKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.TextField()),
                ("fingerprint", models.TextField(help_text="Of what was asked for")),
                ("answer", models.TextField(help_text="JSON")),
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
                "db_table": "call_idempotency_keys",
                "constraints": [models.UniqueConstraint(fields=("agency", "key"), name="idempotency_key_of_agency")],
            },
        ),
        migrations.RunSQL(
            "ALTER TABLE call_idempotency_keys ENABLE ROW LEVEL SECURITY",
            migrations.RunSQL.noop,
        ),
    ]
