"""The operators' door: see a batch, and stop it."""

from django.contrib import admin

from calls.admin.batches import CallBatchAdmin
from calls.admin.contacts import CampaignContactAdmin

__all__ = ["CallBatchAdmin", "CampaignContactAdmin"]

admin.site.site_header = admin.site.site_title = "Outbound calls"
# A bar of parts needs the width, and two lists no menu.
admin.site.enable_nav_sidebar = False
admin.site.site_url = None
