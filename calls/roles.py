"""
Who may cancel, pause and resume batches, and who may read them through the API.

- API: a user with one of ``WRITER_ROLES`` (api/permissions.py), on batches of the user's own agency (api/views.py).
- Admin: staff who may view batches and have the permission of the verb, such as ``calls.cancel_callbatch``
  (admin/actions.py). The group "Call operators" has these permissions.
- Command: everyone who can run ``manage.py``. Nothing else is checked (management/batch_command.py).

Through the API, a user sees all batches of the agency. A user whose role begins with ``client`` sees only those of the
user's own client (``CallBatchQuerySet.visible_to``).
"""

from django.db import models


class Role(models.TextChoices):
    AGENCY_OWNER = "agency_owner"
    AGENCY_ADMIN = "agency_admin"
    AGENCY_MEMBER = "agency_member"
    CLIENT_ADMIN = "client_admin"
    CLIENT_VIEWER = "client_viewer"
    ADMIN = "admin"


# The only roles that may create, pause, resume and cancel batches through the API. Role.ADMIN is not one of them.
WRITER_ROLES = (Role.AGENCY_OWNER, Role.AGENCY_ADMIN)
WRITER_ROLES_TEXT = " or ".join(WRITER_ROLES)


def is_client_role(role: str | None) -> bool:
    """Return whether users with this role belong to a client of the agency. An adopted table may have other roles."""
    return (role or "").lower().startswith("client")
