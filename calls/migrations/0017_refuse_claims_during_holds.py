"""Replace the guards of contacts: refuse claims while the agency is on hold."""

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
                declare="DECLARE batch_status text; is_held boolean;",
                func="\n        IF OLD.status IN ('pending', 'queued', 'scheduled') AND NEW.batch_id IS NOT DISTINCT FROM OLD.batch_id THEN\n            SELECT batch.status, agency.held_at IS NOT NULL INTO batch_status, is_held\n            FROM call_batches AS batch LEFT JOIN agencies AS agency ON agency.id = batch.agency_id\n            WHERE batch.id = NEW.batch_id;\n        ELSE\n            SELECT batch.status, agency.held_at IS NOT NULL INTO batch_status, is_held\n            FROM call_batches AS batch LEFT JOIN agencies AS agency ON agency.id = batch.agency_id\n            WHERE batch.id = NEW.batch_id FOR KEY SHARE OF batch;\n        END IF;\n        IF batch_status IS NULL OR batch_status IN ('completed', 'cancelled')\n            OR ((batch_status = 'paused' OR is_held) AND (\n    (NEW.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped'))\n    AND (\n        (OLD.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped')) IS NOT TRUE\n        OR (NEW.status = 'in_progress' AND OLD.status <> 'in_progress')\n        OR COALESCE(NEW.attempts, 0) > COALESCE(OLD.attempts, 0)\n        OR (NEW.last_attempt_at IS NOT NULL AND NEW.last_attempt_at IS DISTINCT FROM OLD.last_attempt_at)\n    )\n))\n        THEN\n            RAISE EXCEPTION 'contact % cannot become % in batch %, which is %', NEW.id, NEW.status, NEW.batch_id, CASE WHEN batch_status IS NULL THEN 'not there' WHEN batch_status IN ('completed', 'cancelled') OR NOT is_held THEN batch_status ELSE 'of an agency on hold' END USING ERRCODE = 'check_violation', CONSTRAINT = 'contact_batch_live', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'campaign_contacts';\n        END IF;\n        RETURN NULL;\n    ",
                hash="2b7591b9143e4a49fc69d84e752597755fa4ba28",
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
                func="\n        PERFORM 1 FROM call_batches\n        WHERE id IN (SELECT batch_id FROM new_contacts WHERE (status IN ('completed', 'failed', 'skipped')) IS NOT TRUE)\n        ORDER BY id FOR KEY SHARE;\n        SELECT c.batch_id, c.status, b.status::text AS batch_status, a.held_at IS NOT NULL AS is_held INTO refused\n        FROM (\n            SELECT DISTINCT batch_id, status FROM new_contacts WHERE batch_id IS NOT NULL AND (status IN ('completed', 'failed', 'skipped')) IS NOT TRUE\n        ) c LEFT JOIN call_batches b ON b.id = c.batch_id LEFT JOIN agencies a ON a.id = b.agency_id\n        WHERE b.id IS NULL OR b.status IN ('completed', 'cancelled')\n            OR ((b.status = 'paused' OR a.held_at IS NOT NULL) AND (c.status NOT IN ('pending', 'queued', 'scheduled', 'completed', 'failed', 'skipped')))\n        LIMIT 1;\n        IF FOUND THEN\n            RAISE EXCEPTION 'a contact cannot be added as % to batch %, which is %', refused.status, refused.batch_id, CASE WHEN refused.batch_status IS NULL THEN 'not there' WHEN refused.batch_status IN ('completed', 'cancelled') OR NOT refused.is_held THEN refused.batch_status ELSE 'of an agency on hold' END USING ERRCODE = 'check_violation', CONSTRAINT = 'contact_batch_live', SCHEMA = TG_TABLE_SCHEMA, TABLE = 'campaign_contacts';\n        END IF;\n        RETURN NULL;\n    ",
                hash="6846b60a2b5d806e55b7f8a4efd7829190ff786f",
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
    dependencies = [("calls", "0016_history_of_agencies")]

    operations = replace_guards("0006_refuse_second_claims", NEW_GUARDS)
