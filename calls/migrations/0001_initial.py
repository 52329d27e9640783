"""Create the eight tables and nothing else, so that ``migrate --fake-initial`` can adopt existing ones."""

import django.contrib.postgres.functions
import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
import uuid_utils.compat
from django.core.management.base import CommandError
from django.db import migrations, models

import calls.models.fields

TABLES = [
    "agencies",
    "users",
    "campaigns",
    "agent_mappings",
    "agency_phone_numbers",
    "call_batches",
    "campaign_contacts",
    "calls",
]


def refuse_existing_tables(apps, schema_editor):
    if set(TABLES) & set(schema_editor.connection.introspection.table_names()):
        raise CommandError(
            "The tables already exist. To adopt them: python manage.py check_database, "
            "then python manage.py migrate --fake-initial"
        )


def create_hidden_from_fake_initial(**definition):
    """
    Create the table, but let ``--fake-initial`` adopt a database that does not have it.

    The flag looks for the tables of plain CreateModel operations only. 0002 adds a table that is missing.
    """
    create = migrations.CreateModel(**definition)
    return migrations.SeparateDatabaseAndState(database_operations=[create], state_operations=[create])


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.RunPython(refuse_existing_tables, migrations.RunPython.noop),
        migrations.CreateModel(
            name="Agency",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                ("name", models.TextField()),
                ("slug", models.TextField(unique=True)),
                ("webhook_secret", models.TextField(db_default="", default="")),
                ("webhook_signing_secret", models.TextField(blank=True, null=True)),
                ("settings", models.JSONField(blank=True, db_default={}, default=dict)),
            ],
            options={
                "verbose_name_plural": "agencies",
                "db_table": "agencies",
            },
        ),
        create_hidden_from_fake_initial(
            name="AgencyPhoneNumber",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                ("phone_number", models.TextField()),
                ("status", models.TextField(db_default="active", default="active")),
                ("is_active", models.BooleanField(db_default=True, default=True)),
                (
                    "agency",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="phone_numbers",
                        to="calls.agency",
                    ),
                ),
            ],
            options={
                "db_table": "agency_phone_numbers",
            },
        ),
        migrations.CreateModel(
            name="AgencyUser",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                (
                    "role",
                    calls.models.fields.EnumTextField(
                        choices=[
                            ("agency_owner", "Agency Owner"),
                            ("agency_admin", "Agency Admin"),
                            ("agency_member", "Agency Member"),
                            ("client_admin", "Client Admin"),
                            ("client_viewer", "Client Viewer"),
                            ("admin", "Admin"),
                        ]
                    ),
                ),
                ("email", models.TextField()),
                (
                    "agency",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="users",
                        to="calls.agency",
                    ),
                ),
            ],
            options={
                "verbose_name": "agency user",
                "db_table": "users",
            },
        ),
        create_hidden_from_fake_initial(
            name="AgentMapping",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                ("ultravox_agent_id", models.TextField()),
                ("ultravox_agent_name", models.TextField(blank=True, null=True)),
                ("first_speaker_text", models.TextField(blank=True, null=True)),
                (
                    "agency",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="agent_mappings",
                        to="calls.agency",
                    ),
                ),
            ],
            options={
                "db_table": "agent_mappings",
            },
        ),
        migrations.CreateModel(
            name="Campaign",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                ("name", models.TextField()),
                (
                    "agency",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="campaigns",
                        to="calls.agency",
                    ),
                ),
            ],
            options={
                "db_table": "campaigns",
            },
        ),
        migrations.CreateModel(
            name="CallBatch",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                ("from_number", models.TextField(help_text="E.164")),
                (
                    "status",
                    calls.models.fields.EnumTextField(
                        choices=[
                            ("pending", "Pending"),
                            ("scheduled", "Scheduled"),
                            ("processing", "Processing"),
                            ("paused", "Paused"),
                            ("completed", "Completed"),
                            ("cancelled", "Cancelled"),
                            ("failed", "Failed"),
                        ],
                        db_default="pending",
                        default="pending",
                    ),
                ),
                (
                    "mode",
                    calls.models.fields.EnumTextField(
                        choices=[("immediate", "Immediate"), ("scheduled", "Scheduled")],
                        db_default="immediate",
                        default="immediate",
                    ),
                ),
                ("calls_per_minute", models.IntegerField(db_default=30, default=30)),
                ("max_concurrent", models.IntegerField(db_default=10, default=10)),
                ("total_contacts", models.IntegerField(db_default=0, default=0)),
                ("queued", models.IntegerField(db_default=0, default=0)),
                ("in_progress", models.IntegerField(db_default=0, default=0)),
                ("completed", models.IntegerField(db_default=0, default=0)),
                ("failed", models.IntegerField(db_default=0, default=0)),
                ("skipped", models.IntegerField(db_default=0, default=0)),
                ("scheduled_for", models.DateTimeField(blank=True, null=True)),
                ("started_at", models.DateTimeField(blank=True, null=True)),
                ("paused_at", models.DateTimeField(blank=True, null=True)),
                ("completed_at", models.DateTimeField(blank=True, null=True)),
                ("error_message", models.TextField(blank=True, null=True)),
                ("dial_after", models.DateTimeField(blank=True, null=True)),
                (
                    "agency",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="batches",
                        to="calls.agency",
                    ),
                ),
                (
                    "agent_mapping",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="batches",
                        to="calls.agentmapping",
                    ),
                ),
                (
                    "campaign",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="batches",
                        to="calls.campaign",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "call batches",
                "db_table": "call_batches",
            },
        ),
        migrations.CreateModel(
            name="CampaignContact",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "phone_number",
                    models.TextField(help_text="E.164"),
                ),
                ("first_name", models.TextField(blank=True, db_default="", default="")),
                ("last_name", models.TextField(blank=True, db_default="", default="")),
                ("email", models.TextField(blank=True, db_default="", default="")),
                ("company", models.TextField(blank=True, db_default="", default="")),
                ("title", models.TextField(blank=True, db_default="", default="")),
                ("timezone", models.TextField(blank=True, db_default="", default="")),
                (
                    "custom_data",
                    models.JSONField(
                        blank=True, db_default={}, decoder=calls.models.fields.LenientJSONDecoder, default=dict
                    ),
                ),
                ("do_not_call", models.BooleanField(db_default=False, default=False)),
                (
                    "status",
                    calls.models.fields.EnumTextField(
                        choices=[
                            ("pending", "Pending"),
                            ("queued", "Queued"),
                            ("scheduled", "Scheduled"),
                            ("in_progress", "In Progress"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                            ("skipped", "Skipped"),
                        ],
                        db_default="pending",
                        default="pending",
                    ),
                ),
                ("call_id", models.UUIDField(blank=True, null=True)),
                ("attempts", models.IntegerField(db_default=0, default=0)),
                ("max_attempts", models.IntegerField(db_default=3, default=3)),
                ("outcome", models.TextField(blank=True, null=True)),
                ("outcome_notes", models.TextField(blank=True, null=True)),
                ("duration_seconds", models.IntegerField(blank=True, null=True)),
                ("last_attempt_at", models.DateTimeField(blank=True, null=True)),
                ("completed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "agency",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="contacts",
                        to="calls.agency",
                    ),
                ),
                (
                    "batch",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="contacts",
                        to="calls.callbatch",
                    ),
                ),
                (
                    "campaign",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="contacts",
                        to="calls.campaign",
                    ),
                ),
            ],
            options={
                "db_table": "campaign_contacts",
            },
        ),
        create_hidden_from_fake_initial(
            name="Call",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        db_default=django.contrib.postgres.functions.RandomUUID(),
                        default=uuid_utils.compat.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        default=django.utils.timezone.now,
                        editable=False,
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(auto_now=True, db_default=django.db.models.functions.datetime.Now()),
                ),
                ("ultravox_call_id", models.TextField(unique=True)),
                ("direction", models.TextField(db_default="outbound", default="outbound")),
                ("from_number", models.TextField(db_default="", default="")),
                ("to_number", models.TextField(db_default="", default="")),
                ("status", models.TextField(db_default="initiated", default="initiated")),
                ("end_reason", models.TextField(blank=True, null=True)),
                ("started_at", models.DateTimeField(blank=True, null=True)),
                ("joined_at", models.DateTimeField(blank=True, null=True)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("duration_seconds", models.IntegerField(blank=True, null=True)),
                ("short_summary", models.TextField(blank=True, null=True)),
                ("metadata", models.JSONField(blank=True, db_default={}, default=dict)),
                (
                    "agency",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="calls",
                        to="calls.agency",
                    ),
                ),
                (
                    "batch",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="calls",
                        to="calls.callbatch",
                    ),
                ),
                (
                    "contact",
                    models.ForeignKey(
                        blank=True,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="calls",
                        to="calls.campaigncontact",
                    ),
                ),
            ],
            options={
                "db_table": "calls",
            },
        ),
        # Only this keeps Supabase's Data API from serving the tables. It does not apply to the owner, which is this app.
        migrations.RunSQL(
            "\n".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in TABLES),
            migrations.RunSQL.noop,
        ),
    ]
