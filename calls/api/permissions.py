"""Permissions of the API. Agency and role are those of the ``users`` row, never those of the token."""

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
    """Allows users that belong to an agency."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """:raises NoAgency: the user has no ``users`` row, or the row has no agency."""
        user: Any = request.user
        if user.agency_id is None:
            raise NoAgency
        return True


class HasAgencyRole(HasAgency):
    """Allows users with an agency and one of the view's ``required_roles``. If these are None, any role is allowed."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """:raises CallsError: NoAgency or InsufficientRole."""
        super().has_permission(request, view)
        required_roles = getattr(view, "required_roles", None)
        user: Any = request.user
        if required_roles is not None and user.role not in required_roles:
            raise InsufficientRole
        return True


class HasCronSecret(BasePermission):
    """Allows requests with ``Authorization: Bearer <CRON_SECRET>``."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """:raises NotAuthenticated: the secret is missing or wrong."""
        sent = re.fullmatch(r"bearer +(\S+)", request.headers.get("Authorization", ""), re.IGNORECASE)
        if not constant_time_compare(sent[1] if sent else "", settings.CRON_SECRET):
            raise NotAuthenticated("no cron secret" if sent is None else "wrong cron secret")
        return True
