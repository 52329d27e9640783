"""The Django admin for operators: batches with their actions, contacts, and the settings of agencies."""

from django.contrib import admin

from calls.admin.agencies import AgencyAdmin
from calls.admin.batches import CallBatchAdmin
from calls.admin.contacts import CampaignContactAdmin

__all__ = ["AgencyAdmin", "CallBatchAdmin", "CampaignContactAdmin"]

admin.site.site_header = admin.site.site_title = "Outbound calls"
# Progress bars need the width, and a menu of three entries helps little.
admin.site.enable_nav_sidebar = False
admin.site.site_url = None
