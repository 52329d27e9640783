"""The roles of an agency's users, and which of them may change batches."""

from django.db import models


class Role(models.TextChoices):
    AGENCY_OWNER = "agency_owner"
    AGENCY_ADMIN = "agency_admin"
    AGENCY_MEMBER = "agency_member"
    CLIENT_ADMIN = "client_admin"
    CLIENT_VIEWER = "client_viewer"
    ADMIN = "admin"


# The only roles that may create, pause, resume and cancel batches of their own agency.
WRITER_ROLES = (Role.AGENCY_OWNER, Role.AGENCY_ADMIN)
WRITER_ROLES_TEXT = " or ".join(WRITER_ROLES)
