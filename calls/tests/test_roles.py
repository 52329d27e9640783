"""Who may cancel whose batches, through which door: one list, which allows and refuses."""

import contextlib
import json
import uuid

import pytest
from django.core.management import call_command
from django.test import Client
from rest_framework.test import APIClient

from calls.actors import Door
from calls.models import AgencyUser, Role
from calls.statuses import BatchStatus
from calls.tests.cast import URL, client_of, staff

pytestmark = pytest.mark.django_db

CANCELLED = None
NOT_FOUND = "batch_not_found"
WRONG_ROLE = "insufficient_role"
NO_AGENCY = "no_agency"
NOBODY = "unauthorized"
FORBIDDEN = 403
SIGN_IN = "/admin/login/"

STAFF = {
    "staff who may view and cancel": ("view_callbatch", "cancel_callbatch"),
    "staff who may do all but cancel": ("view_callbatch", "add_callbatch", "change_callbatch", "delete_callbatch"),
    "staff who may cancel but not view": ("cancel_callbatch",),
    "a user who is not of the staff": ("view_callbatch", "cancel_callbatch"),
}

# The door; who comes through it; how a batch of Harbour's is refused, and one of Bluebell's (or that it is cancelled).
# In the API everybody but the last three belongs to Harbour. Staff and the command's operator belong to none; with the
# command one may say whose batches are meant.
TABLE = [
    (Door.API, Role.AGENCY_OWNER, CANCELLED, NOT_FOUND),
    (Door.API, Role.AGENCY_ADMIN, CANCELLED, NOT_FOUND),
    (Door.API, Role.AGENCY_MEMBER, WRONG_ROLE, WRONG_ROLE),
    (Door.API, Role.CLIENT_ADMIN, WRONG_ROLE, WRONG_ROLE),
    (Door.API, Role.CLIENT_VIEWER, WRONG_ROLE, WRONG_ROLE),
    (Door.API, Role.ADMIN, WRONG_ROLE, WRONG_ROLE),
    pytest.param(Door.API, "a role nobody knows", WRONG_ROLE, WRONG_ROLE, marks=pytest.mark.own_tables),
    (Door.API, "without a users row", NO_AGENCY, NO_AGENCY),
    (Door.API, "an owner without an agency", NO_AGENCY, NO_AGENCY),
    (Door.API, "nobody", NOBODY, NOBODY),
    (Door.ADMIN, "staff who may view and cancel", CANCELLED, CANCELLED),
    (Door.ADMIN, "staff who may do all but cancel", FORBIDDEN, FORBIDDEN),
    (Door.ADMIN, "staff who may cancel but not view", FORBIDDEN, FORBIDDEN),
    (Door.ADMIN, "staff who may do nothing", FORBIDDEN, FORBIDDEN),
    (Door.ADMIN, "a superuser", CANCELLED, CANCELLED),
    (Door.ADMIN, "a user who is not of the staff", SIGN_IN, SIGN_IN),
    (Door.ADMIN, "an agency's owner", SIGN_IN, SIGN_IN),
    (Door.COMMAND, "for any agency", CANCELLED, CANCELLED),
    (Door.COMMAND, "--agency=harbour", CANCELLED, NOT_FOUND),
    (Door.COMMAND, "--agency=bluebell", NOT_FOUND, CANCELLED),
]


def client_for(who, harbour):
    """The API as this caller sees it."""
    if who in list(Role):
        return client_of(harbour.users[who])
    if who == "nobody":
        return APIClient()
    user = AgencyUser(id=uuid.uuid4(), role=Role.AGENCY_OWNER, email="someone@example.com")
    if who == "a role nobody knows":
        user.agency, user.role = harbour.agency, "superhero"
    if who != "without a users row":
        user.save()
    return client_of(user)


def admin_for(who, harbour):
    """The admin as this person sees it."""
    if who == "an agency's owner":
        return client_of(harbour.owner)
    user = staff(f"somebody {uuid.uuid4()}", *STAFF.get(who, ()))
    user.is_superuser = who == "a superuser"
    user.is_staff = who != "a user who is not of the staff"
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def refusal(harbour, capsys):
    """Cancel a batch through a door: how it is refused, or None."""

    def through(door, who, batch):
        if door == Door.API:
            answer = client_for(who, harbour).post(URL, {"batch_id": str(batch.pk)}, format="json")
            return answer.json().get("code")
        if door == Door.ADMIN:
            answer = admin_for(who, harbour).post(
                f"/admin/calls/callbatch/cancel/?ids={batch.pk}", {f"skip-{batch.pk}": "1"}, secure=True
            )
            led_to = answer.headers.get("Location", "")
            if led_to.startswith(SIGN_IN):
                return SIGN_IN
            return None if led_to == f"/admin/calls/callbatch/{batch.pk}/change/" else answer.status_code
        options = [who] if who.startswith("--") else []
        with contextlib.suppress(SystemExit):
            call_command("cancel_batch", str(batch.pk), "--json", *options)
        return json.loads(capsys.readouterr().out).get("code")

    return through


@pytest.mark.parametrize(("door", "who", "harbours", "bluebells"), TABLE)
def test_who_may_cancel_whose_batch(harbour, bluebell, refusal, door, who, harbours, bluebells):
    for tenant, expected in ((harbour, harbours), (bluebell, bluebells)):
        batch = tenant.batch(queued=1)

        assert refusal(door, who, batch) == expected

        batch.refresh_from_db()
        assert (batch.status == BatchStatus.CANCELLED) is (expected is CANCELLED)
