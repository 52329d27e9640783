"""The Django admin for operators: look at batches and contacts, and cancel, pause or resume batches."""

from django.contrib import admin

from calls.admin.batches import CallBatchAdmin
from calls.admin.contacts import CampaignContactAdmin

__all__ = ["CallBatchAdmin", "CampaignContactAdmin"]

admin.site.site_header = admin.site.site_title = "Outbound calls"
# Progress bars need the width, and a menu of two entries helps little.
admin.site.enable_nav_sidebar = False
admin.site.site_url = None
