import pytest
from rest_framework.test import APIClient

from calls.dialler.claims import claim_next_contact
from calls.models import Call
from calls.tests.support.factories import CALLER_ID, call
from calls.tests.support.webhooks import WEBHOOK_SECRET


@pytest.fixture
def create(owner):
    """Send calls-batch-create as Harbour's owner. Returns the status and the JSON of the answer."""

    def create(body, **headers):
        response = call(owner, "create", body, **headers)
        assert response["Content-Type"] == "application/json"
        return response.status_code, response.json()

    return create


@pytest.fixture
def deliver(harbour):
    """Deliver a webhook event to an agency's URL. Returns the response."""

    def deliver(body, *, agency=harbour.agency, secret=WEBHOOK_SECRET, **headers):
        agency.webhook_secret = WEBHOOK_SECRET
        agency.save()
        url = f"/functions/v1/webhook-ingest/{agency.pk}/{secret}"
        return APIClient(raise_request_exception=False).generic("POST", url, body, headers=headers)

    return deliver


@pytest.fixture
def called_contact(harbour):
    """A contact whose call ``the-call`` is in progress. Its batch has a second contact, which is queued."""
    batch = harbour.batch(queued=2)
    contact = claim_next_contact(batch)
    Call.record_placed(contact, "the-call", caller_id=CALLER_ID)
    contact.refresh_from_db()
    return contact
