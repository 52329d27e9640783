"""Requests to the API functions, and the histories that they leave."""

from __future__ import annotations

import json
from typing import Any

from rest_framework.test import APIClient

from calls.models import CallBatch
from calls.tests.support.factories import FUNCTIONS, Tenant

CANCEL_ALL = f"{FUNCTIONS}cancel-all"
HOLD = "/functions/v1/calls-agency-hold"
RELEASE = "/functions/v1/calls-agency-release"


def post_to(client: APIClient, path: str, body: Any = None) -> Any:
    """Send a POST request. ``body`` is sent as JSON, bytes are sent as they are, and None sends no body."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return client.generic("POST", path, content)


def answer_to(client: APIClient, path: str, body: Any = None) -> tuple[int, Any]:
    """Send a POST request as :func:`post_to` does. Return the status and the JSON of the answer."""
    response = post_to(client, path, body)
    assert response["Content-Type"] == "application/json"
    return response.status_code, response.json()


def latest_context(subject: CallBatch | Tenant) -> dict[str, Any]:
    """Return the context of the latest row in the history of a batch, or of a tenant's agency."""
    events = subject.agency.events if isinstance(subject, Tenant) else subject.events
    context: dict[str, Any] = events.latest("pk").pgh_context
    return context


def agency_history(tenant: Tenant) -> list[str]:
    """Return the labels of the history of the tenant's agency, oldest first."""
    return list(tenant.agency.events.order_by("pk").values_list("pgh_label", flat=True))
