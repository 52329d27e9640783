"""
Sign-in to the admin: failures are logged, and too many of them lock the user and the address out for a while.

django-axes does the counting, in the database, so that all processes share it. Its settings refer to this module.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from axes.attempts import get_cool_off_threshold
from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import Sum
from django.db.models.signals import pre_save
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.crypto import salted_hmac

logger = logging.getLogger(__name__)

# Failures from one address, with any user names, until the whole address is locked out. Colleagues may share one.
ADDRESS_FAILURE_LIMIT = 50
# Stands for the address of a client that has none, such as a proxy on a Unix socket.
NO_ADDRESS = "::"
# Django's forms accept no user name that begins with it.
UNKNOWN_NAME = "?"


def client_address(request: HttpRequest) -> str:
    """
    Return the client's IP address or, for IPv6, its network of 64 bits, in which a client can choose any address.

    Behind proxies it is the entry of X-Forwarded-For that the outermost proxy has appended. A client can only write
    entries to the left of that one.
    """
    server_sees = request.META.get("REMOTE_ADDR", "")
    hops = [*request.META.get("HTTP_X_FORWARDED_FOR", "").split(","), server_sees]
    proxies = settings.TRUSTED_PROXIES or 0
    for hop in (hops[-1 - proxies :][0], server_sees):
        try:
            address = ipaddress.ip_address(hop.strip())
        except ValueError:
            continue
        if address.version == 4:
            return str(address)
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    return NO_ADDRESS


def stored_name(request: HttpRequest, credentials: dict[str, Any]) -> str:
    """
    Return the user name if there is such a user, otherwise a hash of what was typed.

    People type their password into the wrong field, so an unknown name is neither stored nor logged.
    """
    name = credentials["username"]
    if get_user_model().objects.filter(username=name).exists():
        return str(name)
    return UNKNOWN_NAME + salted_hmac(__name__, name, algorithm="sha256").hexdigest()


class SignInHandler(AxesDatabaseHandler):  # type: ignore[misc]
    """Counts failures by user and address, and by address alone, and logs one line for each."""

    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """Return the failures that count against AXES_FAILURE_LIMIT."""
        recent = AccessAttempt.objects.filter(
            ip_address=request.axes_ip_address, attempt_time__gte=get_cool_off_threshold(request)
        )
        of_address: int = recent.aggregate(sum=Sum("failures_since_start", default=0))["sum"]
        if of_address >= ADDRESS_FAILURE_LIMIT:
            return of_address
        return int(super().get_failures(request, credentials))

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        # One row for each user and address: a client can change its user agent with each request.
        request.axes_user_agent = request.axes_http_accept = ""
        super().user_login_failed(sender, credentials, request, **kwargs)
        name = stored_name(request, credentials)
        logger.warning(
            "sign-in user=%s address=%s outcome=%s",
            "unknown" if name.startswith(UNKNOWN_NAME) else name,
            request.axes_ip_address,
            "locked_out" if request.axes_locked_out else "refused",
        )


@receiver(pre_save, sender=AccessAttempt)
def drop_form_data(instance: AccessAttempt, **kwargs: Any) -> None:
    """Store nothing that was sent in the form: axes hides only the fields that it knows."""
    instance.get_data = instance.post_data = ""


def locked_out(request: Any, response: HttpResponse | None, credentials: dict[str, Any] | None) -> HttpResponse:
    """Answer a sign-in after too many failures."""
    context = {
        **admin.site.each_context(request),
        "title": "Too many failed sign-ins",
        "address": request.axes_ip_address,
        "minutes": int(settings.AXES_COOLOFF_TIME.total_seconds() // 60),
    }
    page = render(request, "admin/locked_out.html", context, status=429)
    page["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return page
