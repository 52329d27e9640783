"""Call.record_placed(): which contact a call belongs to."""

import pytest

from calls.dialler.claims import claim_next_contact
from calls.models import Call, CampaignContact
from calls.tests.support.factories import CALLER_ID

pytestmark = pytest.mark.django_db


def test_a_call_that_another_service_stored_without_a_contact_gets_its_contact(harbour):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    stored = Call.objects.create(
        agency=harbour.agency, ultravox_call_id="a-call", metadata={"their": "own", "attempt": 0}
    )

    assert Call.record_placed(contact, "a-call", caller_id=CALLER_ID) is True
    stored.refresh_from_db()
    assert (stored.batch, stored.contact, stored.metadata) == (batch, contact, {"their": "own", "attempt": 1})
    assert batch.contacts.get().call_id == stored.pk


def test_a_call_of_another_contact_is_not_reassigned(harbour, caplog):
    batch = harbour.batch(queued=2)
    first, second = claim_next_contact(batch), claim_next_contact(batch)
    Call.record_placed(first, "a-call", caller_id=CALLER_ID)

    assert Call.record_placed(second, "a-call", caller_id=CALLER_ID) is False
    assert Call.objects.get().contact == first
    assert CampaignContact.objects.get(pk=second.pk).call_id is None
    assert "belongs to another contact" in caplog.text
