"""Add to agencies a limit of calls in progress, an account of their own at the provider, and a time to wait until."""

from django.db import migrations, models

from calls.database.adoption.operations import add_missing

COLUMNS = [
    migrations.AddField("agency", "max_concurrent_calls", models.IntegerField(blank=True, null=True)),
    migrations.AddField("agency", "ultravox_api_key_encrypted", models.BinaryField(blank=True, null=True)),
    migrations.AddField("agency", "dial_after", models.DateTimeField(blank=True, null=True)),
]


class Migration(migrations.Migration):
    # Other services are writing these tables, so each step has its own transaction.
    atomic = False

    dependencies = [
        ("calls", "0009_row_level_security_of_axes"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=COLUMNS),
        add_missing(*(f"agencies: column {operation.name}" for operation in COLUMNS)),
    ]
