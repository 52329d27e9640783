"""Who may do what. Agency and role are those of the ``users`` row, never the token's."""

import re
from typing import Any

from django.conf import settings
from django.utils.crypto import constant_time_compare
from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from calls.exceptions import InsufficientRole, NoAgency


class HasAgency(BasePermission):
    """Lets in whoever belongs to an agency."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """:raises NoAgency: no ``users`` row, or one without an agency."""
        user: Any = request.user
        if user.agency_id is None:
            raise NoAgency
        return True


class HasAgencyRole(HasAgency):
    """Lets in whoever has one of the view's ``required_roles`` in their agency; None there is any role."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """
        Whether to let them in.

        :raises NoAgency: as above.
        :raises InsufficientRole: theirs is another role than those that the view asks for.
        """
        super().has_permission(request, view)
        required_roles = getattr(view, "required_roles", None)
        user: Any = request.user
        if required_roles is not None and user.role not in required_roles:
            raise InsufficientRole
        return True


class HasCronSecret(BasePermission):
    """Lets in whoever sends ``Authorization: Bearer`` and ``CRON_SECRET``."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """:raises NotAuthenticated: they do not."""
        sent = re.fullmatch(r"bearer +(\S+)", request.headers.get("Authorization", ""), re.IGNORECASE)
        if not constant_time_compare(sent[1] if sent else "", settings.CRON_SECRET):
            raise NotAuthenticated
        return True
