"""Replace the guards of contacts: refuse second claims, and claims with a status of another service."""

import pgtrigger.compiler
from django.db import migrations
from pgtrigger.migrations import AddTrigger

from calls.database.adoption.operations import replace_guards

NEW_GUARDS = [
    AddTrigger(
        model_name="campaigncontact",
        trigger=pgtrigger.compiler.Trigger(
            name="contact_batch_live",
            sql=pgtrigger.compiler.UpsertTriggerSql(
                condition="WHEN (NEW.batch_id IS NOT NULL AND (NEW.status IN ('completed', 'failed', 'skipped')) IS NOT TRUE AND (NEW.batch_id IS DISTINCT FROM OLD.batch_id OR (\n    NEW.status IS DISTINCT FROM OLD.status\n    AND (NEW.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped')) IS NOT TRUE\n    AND (OLD.status IN ('pending', 'queued', 'scheduled') AND NEW.status IN ('pending', 'queued', 'scheduled')) IS NOT TRUE\n) OR (\n    (NEW.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped'))\n    AND (\n        (OLD.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped')) IS NOT TRUE\n        OR (NEW.status = 'in_progress' AND OLD.status <> 'in_progress')\n        OR COALESCE(NEW.attempts, 0) > COALESCE(OLD.attempts, 0)\n        OR (NEW.last_attempt_at IS NOT NULL AND NEW.last_attempt_at IS DISTINCT FROM OLD.last_attempt_at)\n    )\n)))",
                declare="DECLARE batch_status text;",
                func="\n        IF OLD.status IN ('pending', 'queued', 'scheduled') AND NEW.batch_id IS NOT DISTINCT FROM OLD.batch_id THEN\n            SELECT status INTO batch_status FROM call_batches WHERE id = NEW.batch_id;\n        ELSE\n            SELECT status INTO batch_status FROM call_batches WHERE id = NEW.batch_id FOR KEY SHARE;\n        END IF;\n        IF batch_status IS NULL OR batch_status IN ('completed', 'cancelled') OR (batch_status = 'paused' AND (\n    (NEW.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped'))\n    AND (\n        (OLD.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped')) IS NOT TRUE\n        OR (NEW.status = 'in_progress' AND OLD.status <> 'in_progress')\n        OR COALESCE(NEW.attempts, 0) > COALESCE(OLD.attempts, 0)\n        OR (NEW.last_attempt_at IS NOT NULL AND NEW.last_attempt_at IS DISTINCT FROM OLD.last_attempt_at)\n    )\n)) THEN\n            RAISE EXCEPTION 'contact % cannot become % in batch %, which is %', NEW.id, NEW.status, NEW.batch_id, COALESCE(batch_status, 'not there') USING ERRCODE = 'check_violation', CONSTRAINT = 'contact_batch_live', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'campaign_contacts';\n        END IF;\n        RETURN NULL;\n    ",
                hash="7c773f3e483178d2ed47c0e1038bb90d3b12073b",
                operation="UPDATE",
                pgid="pgtrigger_contact_batch_live_b5935",
                table="campaign_contacts",
                when="AFTER",
            ),
        ),
    ),
    AddTrigger(
        model_name="campaigncontact",
        trigger=pgtrigger.compiler.Trigger(
            name="contact_batch_live_insert",
            sql=pgtrigger.compiler.UpsertTriggerSql(
                declare="DECLARE refused record;",
                func="\n        PERFORM 1 FROM call_batches\n        WHERE id IN (SELECT batch_id FROM new_contacts WHERE (status IN ('completed', 'failed', 'skipped')) IS NOT TRUE)\n        ORDER BY id FOR KEY SHARE;\n        SELECT c.batch_id, c.status, b.status::text AS batch_status INTO refused\n        FROM (\n            SELECT DISTINCT batch_id, status FROM new_contacts WHERE batch_id IS NOT NULL AND (status IN ('completed', 'failed', 'skipped')) IS NOT TRUE\n        ) c LEFT JOIN call_batches b ON b.id = c.batch_id\n        WHERE b.id IS NULL OR b.status IN ('completed', 'cancelled')\n            OR (b.status = 'paused' AND (c.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped')))\n        LIMIT 1;\n        IF FOUND THEN\n            RAISE EXCEPTION 'a contact cannot be added as % to batch %, which is %', refused.status, refused.batch_id, COALESCE(refused.batch_status, 'not there') USING ERRCODE = 'check_violation', CONSTRAINT = 'contact_batch_live', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'campaign_contacts';\n        END IF;\n        RETURN NULL;\n    ",
                hash="a0fad2c29b503e1ef3cbc6a84a90204f45c08664",
                level="STATEMENT",
                operation="INSERT",
                pgid="pgtrigger_contact_batch_live_insert_5428e",
                referencing="REFERENCING NEW TABLE AS new_contacts ",
                table="campaign_contacts",
                when="AFTER",
            ),
        ),
    ),
]


class Migration(migrations.Migration):
    dependencies = [
        ("calls", "0005_call_operators"),
    ]

    operations = replace_guards("0003_guards_history_and_own_tables", NEW_GUARDS)
