from calls.models.agency import Agency, AgencyUser
from calls.models.batch import CallBatch
from calls.models.call import Call
from calls.models.campaign import AgencyPhoneNumber, AgentMapping, Campaign
from calls.models.contact import CampaignContact
from calls.models.history import AgencyEvent, CallBatchEvent
from calls.models.idempotency import IdempotencyKey
from calls.models.results import CancelResult, CreateResult, HoldResult, PauseResult
from calls.models.webhook_event import WebhookEvent

__all__ = [
    "Agency",
    "AgencyEvent",
    "AgencyPhoneNumber",
    "AgencyUser",
    "AgentMapping",
    "Call",
    "CallBatch",
    "CallBatchEvent",
    "Campaign",
    "CampaignContact",
    "CancelResult",
    "CreateResult",
    "HoldResult",
    "IdempotencyKey",
    "PauseResult",
    "WebhookEvent",
]
