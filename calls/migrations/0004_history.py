"""One row for each batch made and each change of its status, whoever makes it."""

import django.contrib.postgres.functions
import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
import pghistory.utils
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

# The history is written by whoever changes a batch, and they need have no rights on it.
RUN_AS_OWNER = """
DO $$
DECLARE writer regprocedure;
BEGIN
    FOR writer IN
        SELECT DISTINCT tgfoid::regprocedure FROM pg_trigger
        WHERE tgrelid IN ('call_batches'::regclass, 'call_batch_events'::regclass) AND tgname LIKE 'pgtrigger_%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = public, pg_temp', writer);
    END LOOP;
END
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("calls", "0003_guards")]

    operations = [
        migrations.CreateModel(
            name="CallBatchEvent",
            fields=[
                ("pgh_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("pgh_created_at", models.DateTimeField(auto_now_add=True)),
                ("pgh_label", models.TextField(help_text="The event label.")),
                ("pgh_context", pghistory.utils.JSONField(null=True)),
                (
                    "status",
                    models.TextField(
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
                ("total_contacts", models.IntegerField(db_default=0, default=0)),
                ("queued", models.IntegerField(db_default=0, default=0)),
                ("in_progress", models.IntegerField(db_default=0, default=0)),
                ("completed", models.IntegerField(db_default=0, default=0)),
                ("failed", models.IntegerField(db_default=0, default=0)),
                ("skipped", models.IntegerField(db_default=0, default=0)),
                ("completed_at", models.DateTimeField(blank=True, null=True)),
                ("error_message", models.TextField(blank=True, null=True)),
                (
                    "pgh_obj",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="events",
                        to="calls.callbatch",
                    ),
                ),
            ],
            options={
                "db_table": "call_batch_events",
                "indexes": [models.Index(fields=["pgh_obj", "pgh_id"], name="batch_event_of_batch")],
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="callbatchevent",
            trigger=pgtrigger.compiler.Trigger(
                name="append_only",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;",
                    hash="fdd5c669c8d3f325df7b8151e7304fee61961d70",
                    operation="UPDATE OR DELETE",
                    pgid="pgtrigger_append_only_a05eb",
                    table="call_batch_events",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="callbatch",
            trigger=pgtrigger.compiler.Trigger(
                name="history_created",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    func='INSERT INTO "call_batch_events" ("completed", "completed_at", "error_message", "failed", "in_progress", "pgh_context", "pgh_created_at", "pgh_label", "pgh_obj_id", "queued", "skipped", "status", "total_contacts") VALUES (NEW."completed", NEW."completed_at", NEW."error_message", NEW."failed", NEW."in_progress", COALESCE(NULLIF(CURRENT_SETTING(\'pghistory.context_metadata\', TRUE), \'\'), NULL)::JSONB, NOW(), \'created\', NEW."id", NEW."queued", NEW."skipped", NEW."status", NEW."total_contacts"); RETURN NULL;',
                    hash="518c222803923dc80f8ed9543d8f5fa6afd0e08e",
                    operation="INSERT",
                    pgid="pgtrigger_history_created_adc27",
                    table="call_batches",
                    when="AFTER",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="callbatch",
            trigger=pgtrigger.compiler.Trigger(
                name="history_status",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    condition='WHEN (OLD."status" IS DISTINCT FROM (NEW."status"))',
                    func='INSERT INTO "call_batch_events" ("completed", "completed_at", "error_message", "failed", "in_progress", "pgh_context", "pgh_created_at", "pgh_label", "pgh_obj_id", "queued", "skipped", "status", "total_contacts") VALUES (NEW."completed", NEW."completed_at", NEW."error_message", NEW."failed", NEW."in_progress", COALESCE(NULLIF(CURRENT_SETTING(\'pghistory.context_metadata\', TRUE), \'\'), NULL)::JSONB, NOW(), \'status\', NEW."id", NEW."queued", NEW."skipped", NEW."status", NEW."total_contacts"); RETURN NULL;',
                    hash="2b2908a9ffd87d896d683d270c14422ea38bb1cd",
                    operation="UPDATE",
                    pgid="pgtrigger_history_status_496dd",
                    table="call_batches",
                    when="AFTER",
                ),
            ),
        ),
        migrations.RunSQL(RUN_AS_OWNER, migrations.RunSQL.noop),
    ]
