"""Which signed-in caller may do what. Agency and role are those of the ``users`` row, never the token's."""

from typing import Any

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
