"""
The database's share of the promise: triggers that hold for every writer, also for those that never heard of us.

- ``batch_final``: a completed or cancelled batch stays as it ended.
- ``contact_batch_live``: no contact becomes dialable or in progress, or enters a batch as such, where the batch
  is completed or cancelled; none becomes in progress where it is paused.

A refusal has SQLSTATE 23514 and one of these names as its constraint. The triggers run as their owner (the
migration that creates them sees to it), so neither row level security nor missing grants of the writer's role
blind them. Their conditions leave out everything a cancel does, which therefore pays nothing for them.

Where they lock the batch, they take KEY SHARE: it waits for a cancel's FOR UPDATE, and for nothing less. FOR
SHARE would let two foreign writers deadlock who each retry a contact and then count it on the batch.
"""

import pgtrigger

from calls.statuses import DIALABLE, FINAL, BatchStatus, ContactStatus


def _sql(*statuses: str) -> str:
    return "(" + ", ".join(f"'{status}'" for status in statuses) + ")"


_FINAL = _sql(*FINAL)
_ENDED = _sql(*FINAL, BatchStatus.FAILED)
_DIALABLE = _sql(*DIALABLE)
_ACTIVE = _sql(*DIALABLE, ContactStatus.IN_PROGRESS)
_IN_PROGRESS = f"'{ContactStatus.IN_PROGRESS}'"
_PAUSED = f"'{BatchStatus.PAUSED}'"


def _refuse(constraint: str, table: str, message: str, *arguments: str) -> str:
    """Raise as a CHECK constraint does. The message names ids and statuses only, never a person."""
    values = "".join(f", {argument}" for argument in arguments)
    return (
        f"RAISE EXCEPTION '{message}'{values} USING ERRCODE = 'check_violation', CONSTRAINT = '{constraint}',"
        f" SCHEMA = TG_TABLE_SCHEMA, TABLE = '{table}';"
    )


_BATCH_REFUSED = _refuse(
    "batch_final", "call_batches", "batch % is % and cannot become %", "OLD.id", "OLD.status", "NEW.status"
)

batch_final = pgtrigger.Trigger(
    name="batch_final",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition(
        f"OLD.status IN {_FINAL} AND (NEW.status IS DISTINCT FROM OLD.status"
        " OR NEW.completed_at IS DISTINCT FROM OLD.completed_at"
        " OR NEW.error_message IS DISTINCT FROM OLD.error_message)"
    ),
    # An old pipeline that counts its last call ends the batch once more: its counters go through, the end stays ours.
    func=f"""
        IF NEW.status IS NULL OR NEW.status NOT IN {_ENDED} THEN
            {_BATCH_REFUSED}
        END IF;
        NEW.status := OLD.status;
        NEW.completed_at := OLD.completed_at;
        NEW.error_message := OLD.error_message;
        RETURN NEW;
    """,
)

_CONTACT_REFUSED = _refuse(
    "contact_batch_live",
    "campaign_contacts",
    "contact % cannot become % in batch %, which is %",
    "NEW.id",
    "NEW.status",
    "NEW.batch_id",
    "COALESCE(batch_status, 'not there')",
)

contact_batch_live = pgtrigger.Trigger(
    name="contact_batch_live",
    when=pgtrigger.After,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition(
        f"NEW.batch_id IS NOT NULL AND NEW.status IN {_ACTIVE}"
        " AND (NEW.batch_id IS DISTINCT FROM OLD.batch_id"
        " OR (NEW.status IS DISTINCT FROM OLD.status"
        f" AND NOT (OLD.status IN {_DIALABLE} AND NEW.status IN {_DIALABLE})))"
    ),
    declare=[("batch_status", "text")],
    # A claim needs no lock: cancel and claimer write the same contact, and whoever is second looks again. A lock
    # here would deadlock with cancel, which holds the batch and waits for the contact. Every other way in is
    # invisible to cancel's snapshot, so only the batch row can make the two meet.
    func=f"""
        IF OLD.status IN {_DIALABLE} AND NEW.batch_id IS NOT DISTINCT FROM OLD.batch_id THEN
            SELECT status INTO batch_status FROM call_batches WHERE id = NEW.batch_id;
        ELSE
            SELECT status INTO batch_status FROM call_batches WHERE id = NEW.batch_id FOR KEY SHARE;
        END IF;
        IF batch_status IS NULL OR batch_status IN {_FINAL} OR (
            batch_status = {_PAUSED} AND NEW.status = {_IN_PROGRESS} AND OLD.status IS DISTINCT FROM NEW.status
        ) THEN
            {_CONTACT_REFUSED}
        END IF;
        RETURN NULL;
    """,
)

_INSERT_REFUSED = _refuse(
    "contact_batch_live",
    "campaign_contacts",
    "a contact cannot be added as % to batch %, which is %",
    "refused.status",
    "refused.batch_id",
    "COALESCE(refused.batch_status, 'not there')",
)

# Once a statement, not once a row: ten thousand contacts of one batch cost one lookup.
contact_batch_live_insert = pgtrigger.Trigger(
    name="contact_batch_live_insert",
    level=pgtrigger.Statement,
    when=pgtrigger.After,
    operation=pgtrigger.Insert,
    referencing=pgtrigger.Referencing(new="new_contacts"),  # type: ignore[no-untyped-call]
    declare=[("refused", "record")],
    func=f"""
        PERFORM 1 FROM call_batches
        WHERE id IN (SELECT batch_id FROM new_contacts WHERE status IN {_ACTIVE})
        ORDER BY id FOR KEY SHARE;
        SELECT c.batch_id, c.status, b.status::text AS batch_status INTO refused
        FROM (
            SELECT DISTINCT batch_id, status FROM new_contacts WHERE batch_id IS NOT NULL AND status IN {_ACTIVE}
        ) c LEFT JOIN call_batches b ON b.id = c.batch_id
        WHERE b.id IS NULL OR b.status IN {_FINAL}
            OR (b.status = {_PAUSED} AND c.status = {_IN_PROGRESS})
        LIMIT 1;
        IF FOUND THEN
            {_INSERT_REFUSED}
        END IF;
        RETURN NULL;
    """,
)

# Other services have row level security, no grants on our tables, sometimes an empty search_path. With the rights of
# whoever writes, the guards would see nothing and let everything pass, and the history would refuse every write.
RUN_AS_OWNER = """
DO $$
DECLARE
    trigger_function regprocedure;
    table_owner name;
BEGIN
    FOR trigger_function, table_owner IN
        SELECT DISTINCT tgfoid::regprocedure, pg_get_userbyid(relowner)
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE tgname LIKE 'pgtrigger_%' AND tgrelid IN (
            'call_batches'::regclass, 'campaign_contacts'::regclass, 'call_batch_events'::regclass
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', trigger_function, table_owner);
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = public, pg_temp', trigger_function);
    END LOOP;
END
$$;
"""
