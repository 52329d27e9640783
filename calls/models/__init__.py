from calls.models.agency import Agency, AgencyUser, Role
from calls.models.batch import CallBatch, CancelResult, Discrepancy
from calls.models.call import Call
from calls.models.campaign import AgencyPhoneNumber, AgentMapping, Campaign
from calls.models.contact import CampaignContact
from calls.models.history import CallBatchEvent

__all__ = [
    "Agency",
    "AgencyPhoneNumber",
    "AgencyUser",
    "AgentMapping",
    "Call",
    "CallBatch",
    "CallBatchEvent",
    "Campaign",
    "CampaignContact",
    "CancelResult",
    "Discrepancy",
    "Role",
]
