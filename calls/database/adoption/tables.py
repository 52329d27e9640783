"""What the app needs of each adopted table."""

from __future__ import annotations

# Tables of other services, where the app writes only columns that it has added. Adoption adds nullable columns and
# nothing else: a default would keep triggers of other services from filling the column in.
READ_ONLY = {"agencies", "users", "campaigns", "agent_mappings", "agency_phone_numbers"}

# Tables without which batches can be cancelled and paused, mapped to what does not work while the table is empty.
NOT_NEEDED_TO_CANCEL = {
    "agent_mappings": "no batch can be created, and no call is placed",
    "agency_phone_numbers": "no batch can be created",
    "calls": "events of calls that were placed before the adoption are stored without effect",
}

# Columns of other services that the app fills in where it can (calls/database/additional_columns.py).
FILLED_IN = {"calls": ["agent_mapping_id", "agent_id", "campaign_id", "client_id", "source"]}

# Columns that need a value in existing rows: NULL would be wrong, or would keep a batch from being dialled. Some values
# can be derived (DERIVED). The operator decides the others.
REQUIRED = {
    "agencies": ["id"],
    "users": ["id", "agency_id", "role"],
    "campaigns": ["id", "agency_id"],
    "agent_mappings": ["id", "agency_id", "ultravox_agent_id"],
    "agency_phone_numbers": ["id", "agency_id", "phone_number", "status", "is_active"],
    "call_batches": ["id", "agency_id", "campaign_id", "status"],
    "campaign_contacts": ["id", "agency_id", "campaign_id", "batch_id", "phone_number", "status"],
    "calls": ["id", "agency_id", "ultravox_call_id"],
}

# For each column that can be derived: the tables to copy it from, and the column that refers to them.
DERIVED = {
    ("call_batches", "agency_id"): [("campaigns", "campaign_id")],
    ("campaign_contacts", "agency_id"): [("call_batches", "batch_id"), ("campaigns", "campaign_id")],
    ("campaign_contacts", "campaign_id"): [("call_batches", "batch_id")],
    ("calls", "agency_id"): [("campaigns", "campaign_id")],
}
