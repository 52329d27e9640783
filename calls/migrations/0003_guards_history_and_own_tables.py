"""
The guards (``calls/database/triggers.py``), the history (``calls/models/history.py``) and the app's other own tables.

The own tables come first: creating them locks nothing that another service uses.
"""

import django.contrib.postgres.functions
import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
import pghistory.utils
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models

import calls.models.fields
from calls.database.adoption.steps import run_with_short_lock_timeout
from calls.database.triggers import RUN_AS_OWNER

OWN_TABLES = ["call_batch_events", "call_idempotency_keys", "call_webhook_events"]


def lock_adopted_tables(apps, schema_editor):
    """Lock the tables that get triggers, so that other services wait once and not once for each trigger."""
    run_with_short_lock_timeout(
        lambda: schema_editor.execute("LOCK TABLE call_batches, campaign_contacts IN ACCESS EXCLUSIVE MODE")
    )


def lock_all_tables(apps, schema_editor):
    """Lock the tables that lose triggers and the tables that are dropped, before anything is undone."""
    tables = ", ".join(["call_batches", "campaign_contacts", *OWN_TABLES])
    run_with_short_lock_timeout(lambda: schema_editor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))


# Dropping a trigger does not drop its function.
DROP_FUNCTIONS = """
DO $$
DECLARE function regprocedure;
BEGIN
    FOR function IN
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname ~ '^(pgtrigger_|_pgtrigger_should_ignore$)'
            AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname ~ '^pgtrigger_')
    LOOP
        EXECUTE format('DROP FUNCTION %s', function);
    END LOOP;
END
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("calls", "0002_complete_adopted_tables")]

    # Undone from the last to the first.
    operations = [
        migrations.RunSQL(migrations.RunSQL.noop, DROP_FUNCTIONS),
        migrations.CreateModel(
            name="CallBatchEvent",
            fields=[
                ("pgh_id", models.BigAutoField(primary_key=True, serialize=False)),
                ("pgh_created_at", models.DateTimeField(auto_now_add=True)),
                ("pgh_label", models.TextField(help_text="The event label.")),
                ("pgh_context", pghistory.utils.JSONField(null=True)),
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
                        null=True,
                    ),
                ),
                ("total_contacts", models.IntegerField(db_default=0, default=0, null=True)),
                ("queued", models.IntegerField(db_default=0, default=0, null=True)),
                ("in_progress", models.IntegerField(db_default=0, default=0, null=True)),
                ("completed", models.IntegerField(db_default=0, default=0, null=True)),
                ("failed", models.IntegerField(db_default=0, default=0, null=True)),
                ("skipped", models.IntegerField(db_default=0, default=0, null=True)),
                ("completed_at", models.DateTimeField(blank=True, null=True)),
                ("error_message", models.TextField(blank=True, null=True)),
                (
                    "pgh_obj",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
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
        migrations.CreateModel(
            name="IdempotencyKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.TextField()),
                ("fingerprint", models.TextField(help_text="Hash of the request")),
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
        # Without a policy only the owner can read them, and Supabase's Data API cannot.
        migrations.RunSQL(
            "\n".join(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in OWN_TABLES),
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(lock_adopted_tables, migrations.RunPython.noop),
        pgtrigger.migrations.AddTrigger(
            model_name="callbatch",
            trigger=pgtrigger.compiler.Trigger(
                name="batch_final",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    condition="WHEN (OLD.status IN ('completed', 'cancelled') AND (NEW.status IS DISTINCT FROM OLD.status OR NEW.completed_at IS DISTINCT FROM OLD.completed_at OR NEW.error_message IS DISTINCT FROM OLD.error_message))",
                    func="\n        IF NEW.status IS NULL OR NEW.status NOT IN ('completed', 'cancelled', 'failed') THEN\n            RAISE EXCEPTION 'batch % is % and cannot become %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'check_violation', CONSTRAINT = 'batch_final', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'call_batches';\n        END IF;\n        NEW.status := OLD.status;\n        NEW.completed_at := OLD.completed_at;\n        NEW.error_message := OLD.error_message;\n        RETURN NEW;\n    ",
                    hash="9fa6f7ca8e9e017dfac77342a9fd891d5c5d051b",
                    operation="UPDATE",
                    pgid="pgtrigger_batch_final_28c79",
                    table="call_batches",
                    when="BEFORE",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="campaigncontact",
            trigger=pgtrigger.compiler.Trigger(
                name="contact_batch_live",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    condition="WHEN (NEW.batch_id IS NOT NULL AND NEW.status IN ('pending', 'queued', 'scheduled', 'in_progress') AND (NEW.batch_id IS DISTINCT FROM OLD.batch_id OR (NEW.status IS DISTINCT FROM OLD.status AND NOT (OLD.status IN ('pending', 'queued', 'scheduled') AND NEW.status IN ('pending', 'queued', 'scheduled')))))",
                    declare="DECLARE batch_status text;",
                    func="\n        IF OLD.status IN ('pending', 'queued', 'scheduled') AND NEW.batch_id IS NOT DISTINCT FROM OLD.batch_id THEN\n            SELECT status INTO batch_status FROM call_batches WHERE id = NEW.batch_id;\n        ELSE\n            SELECT status INTO batch_status FROM call_batches WHERE id = NEW.batch_id FOR KEY SHARE;\n        END IF;\n        IF batch_status IS NULL OR batch_status IN ('completed', 'cancelled') OR (\n            batch_status = 'paused' AND NEW.status = 'in_progress' AND OLD.status IS DISTINCT FROM NEW.status\n        ) THEN\n            RAISE EXCEPTION 'contact % cannot become % in batch %, which is %', NEW.id, NEW.status, NEW.batch_id, COALESCE(batch_status, 'not there') USING ERRCODE = 'check_violation', CONSTRAINT = 'contact_batch_live', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'campaign_contacts';\n        END IF;\n        RETURN NULL;\n    ",
                    hash="7d0762b1b785f952641d97aff3fe6691a083b93d",
                    operation="UPDATE",
                    pgid="pgtrigger_contact_batch_live_b5935",
                    table="campaign_contacts",
                    when="AFTER",
                ),
            ),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name="campaigncontact",
            trigger=pgtrigger.compiler.Trigger(
                name="contact_batch_live_insert",
                sql=pgtrigger.compiler.UpsertTriggerSql(
                    declare="DECLARE refused record;",
                    func="\n        PERFORM 1 FROM call_batches\n        WHERE id IN (SELECT batch_id FROM new_contacts WHERE status IN ('pending', 'queued', 'scheduled', 'in_progress'))\n        ORDER BY id FOR KEY SHARE;\n        SELECT c.batch_id, c.status, b.status::text AS batch_status INTO refused\n        FROM (\n            SELECT DISTINCT batch_id, status FROM new_contacts WHERE batch_id IS NOT NULL AND status IN ('pending', 'queued', 'scheduled', 'in_progress')\n        ) c LEFT JOIN call_batches b ON b.id = c.batch_id\n        WHERE b.id IS NULL OR b.status IN ('completed', 'cancelled')\n            OR (b.status = 'paused' AND c.status = 'in_progress')\n        LIMIT 1;\n        IF FOUND THEN\n            RAISE EXCEPTION 'a contact cannot be added as % to batch %, which is %', refused.status, refused.batch_id, COALESCE(refused.batch_status, 'not there') USING ERRCODE = 'check_violation', CONSTRAINT = 'contact_batch_live', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'campaign_contacts';\n        END IF;\n        RETURN NULL;\n    ",
                    hash="13ed6ef714b0c1b57ec5de5e35ee1eb08181dd8a",
                    level="STATEMENT",
                    operation="INSERT",
                    pgid="pgtrigger_contact_batch_live_insert_5428e",
                    referencing="REFERENCING NEW TABLE AS new_contacts ",
                    table="campaign_contacts",
                    when="AFTER",
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
        migrations.RunPython(migrations.RunPython.noop, lock_all_tables),
    ]
