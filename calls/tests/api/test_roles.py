"""Permissions: which users may do what to which agency's batches, through each entry point."""

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

ALLOWED = None
NOT_FOUND = "batch_not_found"
WRONG_ROLE = "insufficient_role"
NO_AGENCY = "no_agency"
UNAUTHORIZED = "unauthorized"
FORBIDDEN = 403
SIGN_IN = "/admin/login/"

VERBS = ["cancel", "pause", "resume"]
BEFORE = {"cancel": BatchStatus.PROCESSING, "pause": BatchStatus.PROCESSING, "resume": BatchStatus.PAUSED}

ALL_PERMISSIONS = {f"{verb}_callbatch" for verb in ("view", "add", "change", "delete", *VERBS)}
# The permissions of each kind of admin user, given the permission of the verb.
STAFF_PERMISSIONS = {
    "staff with the permission": lambda permission: {"view_callbatch", permission},
    "staff with all permissions but this one": lambda permission: ALL_PERMISSIONS - {permission},
    "staff without the view permission": lambda permission: {permission},
    "a user who is not staff": lambda permission: {"view_callbatch", permission},
}

# A user of the API and four expected results: of changing a batch of Harbour, of changing a batch of Bluebell, of
# reading a batch of Harbour for the user's own client, and of reading a batch of Harbour for another client. All users
# but the last three belong to Harbour.
API_USERS = [
    (Role.AGENCY_OWNER, ALLOWED, NOT_FOUND, ALLOWED, ALLOWED),
    (Role.AGENCY_ADMIN, ALLOWED, NOT_FOUND, ALLOWED, ALLOWED),
    (Role.AGENCY_MEMBER, WRONG_ROLE, WRONG_ROLE, ALLOWED, ALLOWED),
    (Role.CLIENT_ADMIN, WRONG_ROLE, WRONG_ROLE, ALLOWED, NOT_FOUND),
    (Role.CLIENT_VIEWER, WRONG_ROLE, WRONG_ROLE, ALLOWED, NOT_FOUND),
    (Role.ADMIN, WRONG_ROLE, WRONG_ROLE, ALLOWED, ALLOWED),
    ("a client's user without a client", WRONG_ROLE, WRONG_ROLE, NOT_FOUND, NOT_FOUND),
    pytest.param("an unknown role", WRONG_ROLE, WRONG_ROLE, ALLOWED, ALLOWED, marks=pytest.mark.not_adopted),
    ("without a users row", NO_AGENCY, NO_AGENCY, NO_AGENCY, NO_AGENCY),
    ("an owner without an agency", NO_AGENCY, NO_AGENCY, NO_AGENCY, NO_AGENCY),
    ("no token", UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED),
]

# An entry point, its user or option, and the expected result of changing a batch of Harbour and of Bluebell. Staff and
# operators belong to no agency; the option --agency restricts the command to one agency.
ADMIN_AND_COMMAND = [
    (Source.ADMIN, "staff with the permission", ALLOWED, ALLOWED),
    (Source.ADMIN, "staff with all permissions but this one", FORBIDDEN, FORBIDDEN),
    (Source.ADMIN, "staff without the view permission", FORBIDDEN, FORBIDDEN),
    (Source.ADMIN, "staff without permissions", FORBIDDEN, FORBIDDEN),
    (Source.ADMIN, "a superuser", ALLOWED, ALLOWED),
    (Source.ADMIN, "a user who is not staff", SIGN_IN, SIGN_IN),
    (Source.ADMIN, "an agency's owner", SIGN_IN, SIGN_IN),
    (Source.COMMAND, "without --agency", ALLOWED, ALLOWED),
    (Source.COMMAND, "--agency=harbour", ALLOWED, NOT_FOUND),
    (Source.COMMAND, "--agency=bluebell", NOT_FOUND, ALLOWED),
]


def api_client(user_kind, harbour):
    if user_kind in list(Role):
        return client_of(harbour.users[user_kind])
    if user_kind == "no token":
        return APIClient()
    user = AgencyUser(id=uuid.uuid4(), role=Role.AGENCY_OWNER, email="someone@example.com")
    if user_kind == "an unknown role":
        user.agency, user.role, user.client_id = harbour.agency, "superhero", harbour.campaign.client_id
    if user_kind == "a client's user without a client":
        user.agency, user.role = harbour.agency, Role.CLIENT_VIEWER
    if user_kind != "without a users row":
        user.save()
    return client_of(user)


def admin_client(user_kind, harbour, verb):
    if user_kind == "an agency's owner":
        return client_of(harbour.owner)
    permissions = STAFF_PERMISSIONS[user_kind](f"{verb}_callbatch") if user_kind in STAFF_PERMISSIONS else ()
    user = staff(f"user {uuid.uuid4()}", *permissions)
    user.is_superuser = user_kind == "a superuser"
    user.is_staff = user_kind != "a user who is not staff"
    user.save()
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def change_batch(harbour, capsys):
    """Change a batch through an entry point. Returns the code or status of the refusal, or None."""

    def change_batch(source, user_kind, verb, batch):
        if source == Source.API:
            return call(api_client(user_kind, harbour), verb, {"batch_id": str(batch.pk)}).json().get("code")
        if source == Source.ADMIN:
            answer = admin_client(user_kind, harbour, verb).post(
                f"/admin/calls/callbatch/{verb}/?ids={batch.pk}", {"batch_ids": str(batch.pk)}, secure=True
            )
            redirect = answer.headers.get("Location", "")
            if redirect.startswith(SIGN_IN):
                return SIGN_IN
            return None if redirect == f"/admin/calls/callbatch/{batch.pk}/change/" else answer.status_code
        options = [user_kind] if user_kind.startswith("--") else []
        with contextlib.suppress(SystemExit):
            call_command(f"{verb}_batch", str(batch.pk), "--json", *options)
        return json.loads(capsys.readouterr().out).get("code")

    return change_batch


def check(change_batch, source, user_kind, verb, expectations):
    for tenant, expected in expectations:
        batch = tenant.batch(BEFORE[verb], queued=1)

        assert change_batch(source, user_kind, verb, batch) == expected

        batch.refresh_from_db()
        assert (batch.status != BEFORE[verb]) is (expected is ALLOWED)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("user_kind", "own", "others", "_reading", "_reading_others"), API_USERS)
def test_api_users_may_change_batches_of_their_agency_if_their_role_allows(
    harbour, bluebell, change_batch, user_kind, own, others, _reading, _reading_others, verb
):
    check(change_batch, Source.API, user_kind, verb, [(harbour, own), (bluebell, others)])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("source", "user_kind", "harbour_result", "bluebell_result"), ADMIN_AND_COMMAND)
def test_staff_and_operators_may_change_batches_if_they_are_permitted_to(
    harbour, bluebell, change_batch, source, user_kind, harbour_result, bluebell_result, verb
):
    check(change_batch, source, user_kind, verb, [(harbour, harbour_result), (bluebell, bluebell_result)])


@pytest.mark.parametrize(("user_kind", "expected", "_others", "_reading", "_reading_others"), API_USERS)
def test_only_owners_and_admins_of_an_agency_may_create_batches(
    harbour, user_kind, expected, _others, _reading, _reading_others
):
    answer = call(api_client(user_kind, harbour), "create", harbour.create_body()).json()

    assert answer.get("code") == expected
    assert CallBatch.objects.exists() is (expected is ALLOWED)


@pytest.mark.parametrize(("user_kind", "_writing", "_others", "own", "other_clients"), API_USERS)
def test_users_of_an_agency_may_get_its_batches_and_users_of_a_client_only_those_of_the_client(
    harbour, bluebell, user_kind, _writing, _others, own, other_clients
):
    client = api_client(user_kind, harbour)

    def get(tenant):
        return client.get(f"{FUNCTIONS}get", {"batch_id": str(tenant.batch(queued=1).pk)}).json().get("code")

    assert get(harbour) == own
    assert get(harbour.for_client(uuid.uuid4())) == other_clients
    assert get(bluebell) == (other_clients or NOT_FOUND)


@pytest.mark.parametrize(("user_kind", "_writing", "_others", "own", "other_clients"), API_USERS)
def test_the_list_has_and_counts_the_batches_that_the_user_may_get(
    harbour, bluebell, user_kind, _writing, _others, own, other_clients
):
    batches = [tenant.batch(queued=1) for tenant in (harbour, harbour.for_client(uuid.uuid4()), bluebell)]
    expected = {
        str(batch.pk)
        for batch, result in zip(batches, (own, other_clients, NOT_FOUND), strict=True)
        if result is ALLOWED
    }

    answer = api_client(user_kind, harbour).get(f"{FUNCTIONS}list").json()

    assert {batch["id"] for batch in answer.get("batches", [])} == expected
    assert answer.get("pagination", {"total": 0})["total"] == len(expected)
