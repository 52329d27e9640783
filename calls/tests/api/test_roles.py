"""Who may do what to whose batches, through which door: one list, which allows and refuses."""

import contextlib
import json
import uuid

import pytest
from django.core.management import call_command
from django.test import Client
from rest_framework.test import APIClient

from calls.audit import Source
from calls.models import AgencyUser, CallBatch
from calls.roles import Role
from calls.statuses import BatchStatus
from calls.tests.support.factories import FUNCTIONS, call, client_of, staff

pytestmark = pytest.mark.django_db

DONE = None
NOT_FOUND = "batch_not_found"
WRONG_ROLE = "insufficient_role"
NO_AGENCY = "no_agency"
NOBODY = "unauthorized"
FORBIDDEN = 403
SIGN_IN = "/admin/login/"

VERBS = ["cancel", "pause", "resume"]
BEFORE = {"cancel": BatchStatus.PROCESSING, "pause": BatchStatus.PROCESSING, "resume": BatchStatus.PAUSED}

EVERYTHING = {f"{verb}_callbatch" for verb in ("view", "add", "change", "delete", *VERBS)}
# Their permissions, where what is asked for is a verb's own.
STAFF = {
    "staff who may view and do it": lambda own: {"view_callbatch", own},
    "staff who may do all but it": lambda own: EVERYTHING - {own},
    "staff who may do it but not view": lambda own: {own},
    "a user who is not of the staff": lambda own: {"view_callbatch", own},
}

# Who comes to the API; how they are refused when they would change a batch of Harbour's, and one of Bluebell's; and how
# when they would only look at one of Harbour's. Everybody but the last three belongs to Harbour.
API = [
    (Role.AGENCY_OWNER, DONE, NOT_FOUND, DONE),
    (Role.AGENCY_ADMIN, DONE, NOT_FOUND, DONE),
    (Role.AGENCY_MEMBER, WRONG_ROLE, WRONG_ROLE, DONE),
    (Role.CLIENT_ADMIN, WRONG_ROLE, WRONG_ROLE, DONE),
    (Role.CLIENT_VIEWER, WRONG_ROLE, WRONG_ROLE, DONE),
    (Role.ADMIN, WRONG_ROLE, WRONG_ROLE, DONE),
    pytest.param("a role nobody knows", WRONG_ROLE, WRONG_ROLE, DONE, marks=pytest.mark.not_adopted),
    ("without a users row", NO_AGENCY, NO_AGENCY, NO_AGENCY),
    ("an owner without an agency", NO_AGENCY, NO_AGENCY, NO_AGENCY),
    ("nobody", NOBODY, NOBODY, NOBODY),
]

# The other doors likewise. Staff and the command's operator belong to no agency; with the command one may say whose
# batches are meant.
OTHER_DOORS = [
    (Source.ADMIN, "staff who may view and do it", DONE, DONE),
    (Source.ADMIN, "staff who may do all but it", FORBIDDEN, FORBIDDEN),
    (Source.ADMIN, "staff who may do it but not view", FORBIDDEN, FORBIDDEN),
    (Source.ADMIN, "staff who may do nothing", FORBIDDEN, FORBIDDEN),
    (Source.ADMIN, "a superuser", DONE, DONE),
    (Source.ADMIN, "a user who is not of the staff", SIGN_IN, SIGN_IN),
    (Source.ADMIN, "an agency's owner", SIGN_IN, SIGN_IN),
    (Source.COMMAND, "for any agency", DONE, DONE),
    (Source.COMMAND, "--agency=harbour", DONE, NOT_FOUND),
    (Source.COMMAND, "--agency=bluebell", NOT_FOUND, DONE),
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


def admin_for(who, harbour, verb):
    """The admin as this person sees it."""
    if who == "an agency's owner":
        return client_of(harbour.owner)
    permissions = STAFF[who](f"{verb}_callbatch") if who in STAFF else ()
    user = staff(f"somebody {uuid.uuid4()}", *permissions)
    user.is_superuser = who == "a superuser"
    user.is_staff = who != "a user who is not of the staff"
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def do(harbour, capsys):
    """Do something to a batch through a door: how it is refused, or None."""

    def do(door, who, verb, batch):
        if door == Source.API:
            return call(client_for(who, harbour), verb, {"batch_id": str(batch.pk)}).json().get("code")
        if door == Source.ADMIN:
            answer = admin_for(who, harbour, verb).post(
                f"/admin/calls/callbatch/{verb}/?ids={batch.pk}", {f"confirm-{batch.pk}": "1"}, secure=True
            )
            led_to = answer.headers.get("Location", "")
            if led_to.startswith(SIGN_IN):
                return SIGN_IN
            return None if led_to == f"/admin/calls/callbatch/{batch.pk}/change/" else answer.status_code
        options = [who] if who.startswith("--") else []
        with contextlib.suppress(SystemExit):
            call_command(f"{verb}_batch", str(batch.pk), "--json", *options)
        return json.loads(capsys.readouterr().out).get("code")

    return do


def check(do, door, who, verb, expectations):
    for tenant, expected in expectations:
        batch = tenant.batch(BEFORE[verb], queued=1)

        assert do(door, who, verb, batch) == expected

        batch.refresh_from_db()
        assert (batch.status != BEFORE[verb]) is (expected is DONE)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("who", "harbours", "bluebells", "_reading"), API)
def test_who_may_change_whose_batch_through_the_api(harbour, bluebell, do, who, harbours, bluebells, _reading, verb):
    check(do, Source.API, who, verb, [(harbour, harbours), (bluebell, bluebells)])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("door", "who", "harbours", "bluebells"), OTHER_DOORS)
def test_who_may_change_whose_batch_through_the_other_doors(
    harbour, bluebell, do, door, who, harbours, bluebells, verb
):
    check(do, door, who, verb, [(harbour, harbours), (bluebell, bluebells)])


@pytest.mark.parametrize(("who", "expected", "_others", "_reading"), API)
def test_who_may_create_a_batch(harbour, who, expected, _others, _reading):
    answer = call(client_for(who, harbour), "create", harbour.wanted()).json()

    assert answer.get("code") == expected
    assert CallBatch.objects.exists() is (expected is DONE)


@pytest.mark.parametrize("function", ["list", "get"])
@pytest.mark.parametrize(("who", "_writing", "_others", "expected"), API)
def test_who_may_look_at_batches(harbour, bluebell, who, _writing, _others, expected, function):
    mine, others = harbour.batch(queued=1), bluebell.batch(queued=1)
    client = client_for(who, harbour)

    def look(batch):
        return client.get(f"{FUNCTIONS}{function}", {"batch_id": str(batch.pk)})

    assert look(mine).json().get("code") == expected
    assert (str(mine.pk) in look(mine).content.decode()) is (expected is DONE)
    assert str(others.pk) not in look(others).content.decode()
