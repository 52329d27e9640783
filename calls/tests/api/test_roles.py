"""Permissions: which users may do what to which agency's batches, through each entry point."""

import contextlib
import json
import uuid

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from calls.audit import Source
from calls.models import Agency, AgencyUser, CallBatch
from calls.roles import Role
from calls.statuses import BatchStatus
from calls.tests.support.factories import CALLER_ID, FUNCTIONS, call, client_of, staff
from calls.tests.support.functions import HOLD, RELEASE, answer_to
from calls.tests.support.replacements import cancelled_batch

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

CRUD = ("view", "add", "change", "delete")
ALL_PERMISSIONS = {f"{verb}_callbatch" for verb in (*CRUD, *VERBS, "replace")}
ALL_PERMISSIONS |= {*(f"{verb}_agency" for verb in (*CRUD, "hold")), "set_ultravox_key"}
VIEW_PERMISSIONS = {"view_callbatch", "view_agency"}
# The permissions of each kind of admin user, given the permission of the verb.
STAFF_PERMISSIONS = {
    "staff with the permission": lambda permission: VIEW_PERMISSIONS | {permission},
    "staff with all permissions but this one": lambda permission: ALL_PERMISSIONS - {permission},
    "staff without the view permission": lambda permission: {permission},
    "a user who is not staff": lambda permission: VIEW_PERMISSIONS | {permission},
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
ADMIN_USERS = pytest.mark.parametrize(
    ("user_kind", "harbour_result", "bluebell_result"),
    [row[1:] for row in ADMIN_AND_COMMAND if row[0] == Source.ADMIN],
)


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


def admin_client(user_kind, harbour, verb, model="callbatch"):
    if user_kind == "an agency's owner":
        return client_of(harbour.owner)
    permissions = STAFF_PERMISSIONS[user_kind](f"{verb}_{model}") if user_kind in STAFF_PERMISSIONS else ()
    user = staff(f"user {uuid.uuid4()}", *permissions)
    user.is_superuser = user_kind == "a superuser"
    user.is_staff = user_kind != "a user who is not staff"
    user.save()
    client = Client()
    client.force_login(user)
    return client


def admin_result(answer, page):
    """Return SIGN_IN, the status of a refusal, or ALLOWED if the answer redirects to ``page``."""
    redirect = answer.headers.get("Location", "")
    if redirect.startswith(SIGN_IN):
        return SIGN_IN
    return ALLOWED if redirect == page else answer.status_code


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
            return admin_result(answer, f"/admin/calls/callbatch/{batch.pk}/change/")
        options = [user_kind] if user_kind.startswith("--") else []
        with contextlib.suppress(SystemExit):
            call_command(f"{verb}_batch", str(batch.pk), "--json", *options)
        return json.loads(capsys.readouterr().out).get("code")

    return change_batch


def held_agencies():
    return set(Agency.objects.filter(held_at__isnull=False))


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


@pytest.mark.parametrize(("user_kind", "expected", "_others", "_reading", "_reading_others"), API_USERS)
def test_only_owners_and_admins_may_cancel_all_batches_of_their_agency_and_of_no_other(
    harbour, bluebell, user_kind, expected, _others, _reading, _reading_others
):
    own, other = harbour.batch(queued=1), bluebell.batch(queued=1)

    answer = call(api_client(user_kind, harbour), "cancel-all", {}).json()

    assert answer.get("code") == expected
    cancelled = set(CallBatch.objects.filter(status=BatchStatus.CANCELLED))
    assert cancelled == ({own} if expected is ALLOWED else set())
    assert other not in cancelled


@pytest.mark.parametrize(("user_kind", "expected", "_others", "_reading", "_reading_others"), API_USERS)
def test_only_owners_and_admins_may_hold_and_release_their_agency_and_no_other(
    harbour, bluebell, user_kind, expected, _others, _reading, _reading_others
):
    client = api_client(user_kind, harbour)

    assert answer_to(client, HOLD)[1].get("code") == expected
    assert held_agencies() == ({harbour.agency} if expected is ALLOWED else set())
    Agency.objects.update(held_at=timezone.now())
    assert answer_to(client, RELEASE)[1].get("code") == expected
    assert held_agencies() == ({bluebell.agency} if expected is ALLOWED else {harbour.agency, bluebell.agency})


@pytest.mark.parametrize(("user_kind", "own", "others", "_reading", "_reading_others"), API_USERS)
def test_only_owners_and_admins_may_replace_batches_of_their_agency(
    harbour, bluebell, user_kind, own, others, _reading, _reading_others
):
    client = api_client(user_kind, harbour)

    for tenant, expected in ((harbour, own), (bluebell, others)):
        cancelled = cancelled_batch(tenant)
        assert call(client, "create", {"replaces": str(cancelled.pk)}).json().get("code") == expected
        assert CallBatch.objects.filter(replaces=cancelled).exists() is (expected is ALLOWED)


@ADMIN_USERS
@pytest.mark.parametrize("verb", ["hold", "release"])
def test_staff_may_hold_and_release_every_agency_if_they_are_permitted_to(
    harbour, bluebell, user_kind, harbour_result, bluebell_result, verb
):
    Agency.objects.update(held_at=timezone.now() if verb == "release" else None)
    client = admin_client(user_kind, harbour, "hold", "agency")

    for tenant, expected in ((harbour, harbour_result), (bluebell, bluebell_result)):
        answer = client.post(f"/admin/calls/agency/{tenant.agency.pk}/{verb}/", secure=True)
        assert admin_result(answer, f"/admin/calls/agency/{tenant.agency.pk}/change/") == expected
        is_changed = (tenant.agency in held_agencies()) is (verb == "hold")
        assert is_changed is (expected is ALLOWED)


@ADMIN_USERS
def test_staff_may_replace_batches_of_every_agency_if_they_are_permitted_to(
    harbour, bluebell, user_kind, harbour_result, bluebell_result
):
    client = admin_client(user_kind, harbour, "replace")

    for tenant, expected in ((harbour, harbour_result), (bluebell, bluebell_result)):
        cancelled = cancelled_batch(tenant)
        form = {
            "agent_mapping_id": str(tenant.agent.pk),
            "campaign_id": str(tenant.campaign.pk),
            "from_number": CALLER_ID,
            "calls_per_minute": 30,
            "max_concurrent": 10,
        }
        answer = client.post(f"/admin/calls/callbatch/{cancelled.pk}/replace/", form, secure=True)
        new = CallBatch.objects.filter(replaces=cancelled).first()
        assert admin_result(answer, f"/admin/calls/callbatch/{new and new.pk}/change/") == expected
        assert (new is not None) is (expected is ALLOWED)
