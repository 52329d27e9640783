"""
Guards: triggers that keep the promise of a cancel for every writer of the tables, including other services.

- ``batch_final``: a completed or cancelled batch keeps its status, ``completed_at`` and ``error_message``.
- ``contact_batch_live``: in a completed or cancelled batch, no contact becomes dialable or in progress, and no dialable
  contact or contact in progress is added or moved to the batch. In a paused batch, and in every batch of an agency on
  hold, no contact becomes in progress. In all of these batches, a contact that is in progress cannot be claimed a
  second time.

Another service may claim with a status of its own, such as ``dialing``. So every status that is neither dialable nor
finished counts as in progress. The agency of a contact is that of its batch.

A refused write fails with SQLSTATE 23514 and the guard's name as its constraint. The guards run as the owner of the
tables (``RUN_AS_OWNER``), so neither row level security nor missing grants of the writing role affect them. Their
conditions exclude everything that a cancel writes, so a cancel does not call their functions.

A guard that locks the batch uses FOR KEY SHARE, which waits for the FOR UPDATE of a cancel but for no weaker lock. With
FOR SHARE, two other services that each retry a contact and then count it on the batch would deadlock.
"""

import pgtrigger

from calls.database.sql import literals
from calls.statuses import DIALABLE, FINAL, FINISHED, BatchStatus, ContactStatus

_FINAL = literals(*FINAL)
_FINAL_OR_FAILED = literals(*FINAL, BatchStatus.FAILED)
_DIALABLE = literals(*DIALABLE)
_FINISHED = literals(*FINISHED)
_DIALABLE_OR_FINISHED = literals(*DIALABLE, *FINISHED)
_IN_PROGRESS = f"'{ContactStatus.IN_PROGRESS}'"
_PAUSED = f"'{BatchStatus.PAUSED}'"


def _raise_check_violation(constraint: str, table: str, message: str, *arguments: str) -> str:
    """
    Return the statement that refuses a write in the way a CHECK constraint does.

    The message contains ids and statuses, but no phone number or name of a contact.
    """
    values = "".join(f", {argument}" for argument in arguments)
    return (
        f"RAISE EXCEPTION '{message}'{values} USING ERRCODE = 'check_violation', CONSTRAINT = '{constraint}',"
        f" SCHEMA = TG_TABLE_SCHEMA, TABLE = '{table}';"
    )


def _is_active(status: str) -> str:
    """Return the condition that a contact is dialable or in progress. A contact without a status counts as active."""
    return f"({status} IN {_FINISHED}) IS NOT TRUE"


def _is_in_progress(status: str) -> str:
    """Return the condition that a contact is in progress. It is NULL for a contact without a status."""
    return f"({status} NOT IN {_DIALABLE_OR_FINISHED})"


def _describe_batch(status: str, is_held: str) -> str:
    """Return the SQL expression that describes the batch in the error message of a refused write."""
    return (
        f"CASE WHEN {status} IS NULL THEN 'not there' WHEN {status} IN {_FINAL} OR NOT {is_held} THEN {status}"
        " ELSE 'of an agency on hold' END"
    )


_BATCH_REFUSED = _raise_check_violation(
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
    # Another service that counts its last call may end the batch again. Its counters are stored; the batch's status,
    # time and reason stay as they were.
    func=f"""
        IF NEW.status IS NULL OR NEW.status NOT IN {_FINAL_OR_FAILED} THEN
            {_BATCH_REFUSED}
        END IF;
        NEW.status := OLD.status;
        NEW.completed_at := OLD.completed_at;
        NEW.error_message := OLD.error_message;
        RETURN NEW;
    """,
)

_CONTACT_REFUSED = _raise_check_violation(
    "contact_batch_live",
    "campaign_contacts",
    "contact % cannot become % in batch %, which is %",
    "NEW.id",
    "NEW.status",
    "NEW.batch_id",
    _describe_batch("batch_status", "is_held"),
)

_MADE_DIALABLE = f"""(
    NEW.status IS DISTINCT FROM OLD.status
    AND {_is_in_progress("NEW.status")} IS NOT TRUE
    AND (OLD.status IN {_DIALABLE} AND NEW.status IN {_DIALABLE}) IS NOT TRUE
)"""
# A dialler that read its list earlier may claim a contact that another one has claimed, so the status stays the same.
# Two diallers may also write the same number of attempts, and their clocks may differ. A contact in progress may still
# get a status of another service, which stands for the call or for its end.
_CLAIMED = f"""(
    {_is_in_progress("NEW.status")}
    AND (
        {_is_in_progress("OLD.status")} IS NOT TRUE
        OR (NEW.status = {_IN_PROGRESS} AND OLD.status <> {_IN_PROGRESS})
        OR COALESCE(NEW.attempts, 0) > COALESCE(OLD.attempts, 0)
        OR (NEW.last_attempt_at IS NOT NULL AND NEW.last_attempt_at IS DISTINCT FROM OLD.last_attempt_at)
    )
)"""

_READ_BATCH = """SELECT batch.status, agency.held_at IS NOT NULL INTO batch_status, is_held
            FROM call_batches AS batch LEFT JOIN agencies AS agency ON agency.id = batch.agency_id
            WHERE batch.id = NEW.batch_id"""

contact_batch_live = pgtrigger.Trigger(
    name="contact_batch_live",
    when=pgtrigger.After,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition(
        f"NEW.batch_id IS NOT NULL AND {_is_active('NEW.status')}"
        f" AND (NEW.batch_id IS DISTINCT FROM OLD.batch_id OR {_MADE_DIALABLE} OR {_CLAIMED})"
    ),
    declare=[("batch_status", "text"), ("is_held", "boolean")],
    # From a dialable status no lock on the batch is needed: claim and cancel update the same contact, so the second one
    # waits and reads it again. A lock would deadlock with a cancel, which holds the batch and waits for the contact.
    # From any other status a cancel does not update the contact, so this trigger must wait for the batch's row.
    # A pause and a hold write no contact. After their commit they wait for the transactions that may have read the old
    # batch or agency here.
    func=f"""
        IF OLD.status IN {_DIALABLE} AND NEW.batch_id IS NOT DISTINCT FROM OLD.batch_id THEN
            {_READ_BATCH};
        ELSE
            {_READ_BATCH} FOR KEY SHARE OF batch;
        END IF;
        IF batch_status IS NULL OR batch_status IN {_FINAL}
            OR ((batch_status = {_PAUSED} OR is_held) AND {_CLAIMED})
        THEN
            {_CONTACT_REFUSED}
        END IF;
        RETURN NULL;
    """,
)

_INSERT_REFUSED = _raise_check_violation(
    "contact_batch_live",
    "campaign_contacts",
    "a contact cannot be added as % to batch %, which is %",
    "refused.status",
    "refused.batch_id",
    _describe_batch("refused.batch_status", "refused.is_held"),
)

# Runs once for each statement and not for each row, so that 10,000 contacts of one batch cost one lookup.
contact_batch_live_insert = pgtrigger.Trigger(
    name="contact_batch_live_insert",
    level=pgtrigger.Statement,
    when=pgtrigger.After,
    operation=pgtrigger.Insert,
    referencing=pgtrigger.Referencing(new="new_contacts"),  # type: ignore[no-untyped-call]
    declare=[("refused", "record")],
    func=f"""
        PERFORM 1 FROM call_batches
        WHERE id IN (SELECT batch_id FROM new_contacts WHERE {_is_active("status")})
        ORDER BY id FOR KEY SHARE;
        SELECT c.batch_id, c.status, b.status::text AS batch_status, a.held_at IS NOT NULL AS is_held INTO refused
        FROM (
            SELECT DISTINCT batch_id, status FROM new_contacts WHERE batch_id IS NOT NULL AND {_is_active("status")}
        ) c LEFT JOIN call_batches b ON b.id = c.batch_id LEFT JOIN agencies a ON a.id = b.agency_id
        WHERE b.id IS NULL OR b.status IN {_FINAL}
            OR ((b.status = {_PAUSED} OR a.held_at IS NOT NULL) AND {_is_in_progress("c.status")})
        LIMIT 1;
        IF FOUND THEN
            {_INSERT_REFUSED}
        END IF;
        RETURN NULL;
    """,
)

# The role of another service may be subject to row level security, have no grants on the app's own tables, or have an
# empty search_path. With its rights the guards would not see the batch, and the history could not be written.
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
            'call_batches'::regclass, 'campaign_contacts'::regclass, 'call_batch_events'::regclass,
            to_regclass('agency_events')
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', trigger_function, table_owner);
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = public, pg_temp', trigger_function);
    END LOOP;
END
$$;
"""
