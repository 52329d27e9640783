"""The history of agencies' holds and releases."""

import django.db.models.deletion
import pghistory.utils
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

from calls.database.triggers import RUN_AS_OWNER


class Migration(migrations.Migration):
    dependencies = [("calls", "0015_holds_and_replacements")]

    operations = [
        migrations.CreateModel(
            name="AgencyEvent",
            fields=[
                ("pgh_created_at", models.DateTimeField(auto_now_add=True)),
                ("pgh_label", models.TextField(help_text="The event label.")),
                ("pgh_context", pghistory.utils.JSONField(null=True)),
                ("held_at", models.DateTimeField(blank=True, null=True)),
                (
                    "pgh_obj",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="events",
                        to="calls.agency",
                    ),
                ),
                ("pgh_id", models.BigAutoField(primary_key=True, serialize=False)),
            ],
            options={
                "db_table": "agency_events",
                "indexes": [models.Index(fields=["pgh_obj", "pgh_id"], name="agency_event_of_agency")],
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="agencyevent",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;",
                    hash="b537c8080ea5492968287fc19b0ec64d2aa3e6ed",
                    operation="UPDATE OR DELETE",
                    pgid="pgtrigger_append_only_3e2be",
                    table="agency_events",
                    when="BEFORE",
                ),
            ),
        ),
        migrations.RunSQL(RUN_AS_OWNER, migrations.RunSQL.noop),
        # Close it to Supabase's Data API: without a policy only the owner can read it.
        migrations.RunSQL("ALTER TABLE agency_events ENABLE ROW LEVEL SECURITY", migrations.RunSQL.noop),
    ]
