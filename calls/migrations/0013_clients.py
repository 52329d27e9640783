"""Add the client that a user works for, and the client that a campaign is for."""

from django.db import migrations

from calls.database.adoption.operations import add_missing
from calls.models.fields import ForeignIdField


class Migration(migrations.Migration):
    # Other services are writing these tables, so each step has its own transaction.
    atomic = False

    dependencies = [
        ("calls", "0012_agency_permissions"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField("agencyuser", "client_id", ForeignIdField(blank=True, null=True)),
                migrations.AddField("campaign", "client_id", ForeignIdField(blank=True, null=True)),
            ]
        ),
        add_missing("users: column client_id", "campaigns: column client_id"),
    ]
