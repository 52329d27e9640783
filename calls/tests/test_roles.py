"""Who may cancel whose batches, through which door: one list, which allows and refuses."""

import json
import uuid

import pytest
from django.core.management import call_command

from calls.models import AgencyUser, Role
from calls.statuses import BatchStatus
from calls.tests.cast import URL, client_of

pytestmark = pytest.mark.django_db

ALLOWED = (200, None)
NOT_FOUND = (404, "batch_not_found")
WRONG_ROLE = (403, "insufficient_role")
NO_AGENCY = (403, "no_agency")
NOBODY = (401, "unauthorized")

# Who asks; what the API answers for a batch of their own agency, and for one of another's.
API = [
    (Role.AGENCY_OWNER, ALLOWED, NOT_FOUND),
    (Role.AGENCY_ADMIN, ALLOWED, NOT_FOUND),
    (Role.AGENCY_MEMBER, WRONG_ROLE, WRONG_ROLE),
    (Role.CLIENT_ADMIN, WRONG_ROLE, WRONG_ROLE),
    (Role.CLIENT_VIEWER, WRONG_ROLE, WRONG_ROLE),
    (Role.ADMIN, WRONG_ROLE, WRONG_ROLE),
    ("a role nobody knows", WRONG_ROLE, WRONG_ROLE),
    ("without a users row", NO_AGENCY, NO_AGENCY),
    ("an owner without an agency", NO_AGENCY, NO_AGENCY),
    ("nobody", NOBODY, NOBODY),
]

# Which agency the operator limits the command to; whether it cancels a batch of Harbour, and one of Bluebell.
COMMAND = [
    ([], True, True),
    (["--agency", "harbour"], True, False),
    (["--agency", "bluebell"], False, True),
]


@pytest.fixture
def caller(harbour, client):
    def caller(who):
        if who in list(Role):
            return client_of(harbour.users[who])
        if who == "nobody":
            return client
        user = AgencyUser(id=uuid.uuid4(), role=Role.AGENCY_OWNER, email="someone@example.com")
        if who == "a role nobody knows":
            user.agency, user.role = harbour.agency, "superhero"
        if who != "without a users row":
            user.save()
        return client_of(user)

    return caller


@pytest.mark.parametrize(("who", "own", "foreign"), API)
def test_the_api_answers(harbour, bluebell, caller, who, own, foreign):
    for tenant, (status, code) in ((harbour, own), (bluebell, foreign)):
        batch = tenant.batch(queued=1)

        response = caller(who).generic("POST", URL, json.dumps({"batch_id": str(batch.pk)}))

        batch.refresh_from_db()
        assert (response.status_code, response.json().get("code")) == (status, code)
        assert (batch.status == BatchStatus.CANCELLED) is (status == 200)


@pytest.mark.parametrize(("options", "harbours", "bluebells"), COMMAND)
def test_the_command_cancels(harbour, bluebell, options, harbours, bluebells):
    for tenant, cancels in ((harbour, harbours), (bluebell, bluebells)):
        batch = tenant.batch(queued=1)

        try:
            call_command("cancel_batch", str(batch.pk), *options)
        except SystemExit:
            assert not cancels

        batch.refresh_from_db()
        assert (batch.status == BatchStatus.CANCELLED) is cancels
