"""GET calls-batch-list and calls-batch-get as a user of one of the agency's clients."""

import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.models import AgencyUser, CallBatch, Campaign
from calls.roles import Role, is_client_role
from calls.statuses import BatchStatus
from calls.tests.support.factories import CALLER_ID, CLIENT_ROLES, FUNCTIONS, client_of
from calls.tests.support.replacements import cancelled_batch, replace

pytestmark = pytest.mark.django_db

LIST, GET = f"{FUNCTIONS}list", f"{FUNCTIONS}get"
NO_BATCHES = {"batches": [], "pagination": {"total": 0, "limit": 25, "offset": 0, "has_more": False}}


@pytest.fixture
def viewer(harbour):
    """An API client that is signed in as a user of the client that Harbour's first campaign is for."""
    return client_of(harbour.users[Role.CLIENT_VIEWER])


@pytest.fixture
def other_client(harbour):
    """Harbour with a campaign for another client."""
    return harbour.for_client(uuid.uuid4())


def listed(client, **parameters):
    """Return the ids and the total of a list."""
    answer = client.get(LIST, parameters).json()
    return [uuid.UUID(batch["id"]) for batch in answer["batches"]], answer["pagination"]["total"]


def test_the_roles_of_clients_begin_with_client():
    assert [role for role in Role if is_client_role(role)] == list(CLIENT_ROLES)
    assert not is_client_role(None)


def test_a_batch_of_another_client_gets_the_same_answer_as_one_that_does_not_exist(other_client, viewer):
    batch = other_client.batch(queued=3)

    others = viewer.get(GET, {"batch_id": str(batch.pk)})
    unknown = viewer.get(GET, {"batch_id": str(uuid.uuid4())})

    assert (others.status_code, others.json()) == (404, {"error": "Batch not found", "code": "batch_not_found"})
    assert others.content == unknown.content


def test_a_client_gets_a_batch_of_its_campaign_with_all_contacts(harbour, other_client, viewer, owner):
    batch = harbour.batch(queued=2, completed=1)
    other_client.batch(queued=4)

    answer = viewer.get(GET, {"batch_id": str(batch.pk)}).json()

    assert answer == owner.get(GET, {"batch_id": str(batch.pk)}).json()
    assert answer["contact_pagination"]["total"] == 3


def replacements_shown(client, batch):
    shown = client.get(GET, {"batch_id": str(batch.pk)}).json()["batch"]
    return shown["replaces"], shown["replaced_by"]


def test_a_client_is_not_shown_that_a_batch_of_another_client_replaces_its_batch(harbour, other_client, viewer, owner):
    cancelled = cancelled_batch(harbour)
    batch = replace(cancelled, campaign_id=str(other_client.campaign.pk))

    assert replacements_shown(viewer, cancelled) == (None, None)
    assert replacements_shown(owner, cancelled) == (None, str(batch.pk))


def test_a_client_is_not_shown_that_its_batch_replaces_a_batch_of_another_client(harbour, other_client, viewer, owner):
    cancelled = cancelled_batch(other_client)
    batch = replace(cancelled, campaign_id=str(harbour.campaign.pk))

    assert replacements_shown(viewer, batch) == (None, None)
    assert replacements_shown(owner, batch) == (str(cancelled.pk), None)


def test_a_client_is_shown_which_of_its_batches_replaces_which(harbour, viewer):
    cancelled = cancelled_batch(harbour)
    batch = replace(cancelled)

    assert replacements_shown(viewer, cancelled) == (None, str(batch.pk))
    assert replacements_shown(viewer, batch) == (str(cancelled.pk), None)


def test_a_client_sees_the_batches_of_all_its_campaigns(harbour, other_client, viewer):
    batches = [tenant.batch() for tenant in (harbour, other_client, harbour.for_client(harbour.campaign.client_id))]

    assert listed(viewer) == ([batches[2].pk, batches[0].pk], 2)


def test_the_pages_of_a_client_have_no_gaps(harbour, other_client, viewer):
    batches = [tenant.batch() for _ in range(3) for tenant in (harbour, other_client)]
    own = [batch.pk for batch in reversed(batches) if batch.campaign_id == harbour.campaign.pk]

    assert [listed(viewer, limit=2, offset=offset) for offset in (0, 2, 4)] == [(own[:2], 3), (own[2:], 3), ([], 3)]
    assert viewer.get(LIST, {"limit": 3}).json()["pagination"]["has_more"] is False


def test_the_list_of_another_clients_campaign_is_empty(other_client, viewer):
    other_client.batch()

    answer = viewer.get(LIST, {"campaign_id": str(other_client.campaign.pk)})

    assert (answer.status_code, answer.json()) == (200, NO_BATCHES)


def test_a_client_can_filter_its_batches_by_campaign_and_status(harbour, other_client, viewer):
    paused = harbour.batch(BatchStatus.PAUSED)
    harbour.batch()
    other_client.batch(BatchStatus.PAUSED)

    assert listed(viewer, status="paused") == ([paused.pk], 1)
    assert listed(viewer, status="paused", campaign_id=str(harbour.campaign.pk)) == ([paused.pk], 1)


@pytest.mark.parametrize("role", CLIENT_ROLES)
@pytest.mark.parametrize("has_client", [False, True], ids=["user without client", "user with client"])
def test_a_campaign_without_a_client_is_shown_to_no_client(harbour, owner, role, has_client):
    batch = harbour.for_client(None).batch(queued=1)
    user = harbour.users[role]
    if not has_client:
        AgencyUser.objects.filter(pk=user.pk).update(client_id=None)
    client = client_of(user)

    assert client.get(LIST).json() == NO_BATCHES
    assert client.get(GET, {"batch_id": str(batch.pk)}).status_code == 404
    assert listed(owner) == ([batch.pk], 1)


def test_an_agencys_user_with_a_client_sees_the_batches_of_all_clients(harbour, other_client):
    member = harbour.users[Role.AGENCY_MEMBER]
    AgencyUser.objects.filter(pk=member.pk).update(client_id=harbour.campaign.client_id)
    batches = [harbour.batch(), other_client.batch()]

    assert listed(client_of(member)) == ([batch.pk for batch in reversed(batches)], 2)


@pytest.mark.not_adopted
@pytest.mark.parametrize("role", ["client", "client_manager", "CLIENT_ADMIN"])
def test_another_role_of_clients_sees_only_the_batches_of_the_users_client(harbour, other_client, role):
    user = AgencyUser.objects.create(id=uuid.uuid4(), agency=harbour.agency, role=role, email="x@example.com")
    batch = harbour.batch()
    other_client.batch()

    assert listed(client_of(user)) == ([], 0)
    AgencyUser.objects.filter(pk=user.pk).update(client_id=harbour.campaign.client_id)
    assert listed(client_of(user)) == ([batch.pk], 1)


@pytest.mark.not_adopted
@pytest.mark.parametrize("role", ["superhero", "AGENCY_OWNER", ""])
def test_a_role_that_this_app_does_not_know_sees_all_batches_of_the_agency(harbour, other_client, role):
    user = AgencyUser.objects.create(id=uuid.uuid4(), agency=harbour.agency, role=role, email="x@example.com")
    batches = [harbour.batch(), other_client.batch()]

    assert listed(client_of(user)) == ([batch.pk for batch in reversed(batches)], 2)


def set_column_types(of_users, of_campaigns):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table, column_type in (("users", of_users), ("campaigns", of_campaigns)):
            cursor.execute(f"ALTER TABLE {table} ALTER client_id TYPE {column_type} USING NULL")


@pytest.mark.not_adopted
@pytest.mark.parametrize(("of_users", "of_campaigns"), [("text", "uuid"), ("text", "bigint"), ("text", "text")])
def test_a_user_with_an_empty_client_sees_nothing_whatever_the_types_of_the_columns(
    harbour, other_client, of_users, of_campaigns
):
    viewer = harbour.users[Role.CLIENT_VIEWER]
    set_column_types(of_users, of_campaigns)
    AgencyUser.objects.filter(pk=viewer.pk).update(client_id="")
    if of_campaigns == "text":
        Campaign.objects.update(client_id="")
    batch = harbour.batch()

    assert client_of(viewer).get(LIST).json() == NO_BATCHES
    assert client_of(viewer).get(GET, {"batch_id": str(batch.pk)}).status_code == 404


@pytest.mark.not_adopted
def test_clients_are_compared_as_text_if_the_columns_have_different_types(harbour, other_client):
    viewer = harbour.users[Role.CLIENT_VIEWER]
    set_column_types("text", "bigint")
    AgencyUser.objects.filter(pk=viewer.pk).update(client_id="7")
    Campaign.objects.filter(pk=harbour.campaign.pk).update(client_id=7)
    own = harbour.batch()
    other_client.batch()

    assert listed(client_of(viewer)) == ([own.pk], 1)


@pytest.mark.not_adopted
def test_an_adopted_column_may_have_another_type(harbour, other_client):
    viewer = harbour.users[Role.CLIENT_VIEWER]
    set_column_types("bigint", "bigint")
    AgencyUser.objects.filter(pk=viewer.pk).update(client_id=7)
    Campaign.objects.filter(pk=harbour.campaign.pk).update(client_id=7)
    Campaign.objects.exclude(pk=harbour.campaign.pk).update(client_id=8)
    own, other = harbour.batch(), other_client.batch()

    assert listed(client_of(viewer)) == ([own.pk], 1)
    assert client_of(viewer).get(GET, {"batch_id": str(other.pk)}).status_code == 404


def test_a_client_of_two_agencies_sees_the_batches_of_the_users_agency_only(harbour, bluebell, viewer):
    Campaign.objects.update(client_id=harbour.campaign.client_id)
    own, other = harbour.batch(), bluebell.batch()

    assert listed(viewer) == ([own.pk], 1)
    assert viewer.get(GET, {"batch_id": str(other.pk)}).status_code == 404


def test_a_batch_whose_campaign_belongs_to_another_agency_or_was_deleted_is_not_shown_to_a_client(
    harbour, bluebell, viewer
):
    foreign, orphan = harbour.batch(), harbour.for_client(harbour.campaign.client_id).batch()
    Campaign.objects.update(client_id=harbour.campaign.client_id)
    CallBatch.objects.filter(pk=foreign.pk).update(campaign=bluebell.campaign)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM campaigns WHERE id = %s", [orphan.campaign_id])

    assert listed(viewer) == ([], 0)


def test_a_user_who_moves_to_another_client_sees_its_batches_at_once(harbour, other_client, viewer):
    own, other = harbour.batch(), other_client.batch()
    assert listed(viewer) == ([own.pk], 1)

    AgencyUser.objects.filter(pk=harbour.users[Role.CLIENT_VIEWER].pk).update(client_id=other_client.campaign.client_id)

    assert listed(viewer) == ([other.pk], 1)


@pytest.mark.parametrize("path", ["list", "get"])
def test_the_number_of_statements_does_not_depend_on_the_number_of_batches(harbour, other_client, viewer, path):
    def statements(count):
        for tenant in (harbour, other_client):
            CallBatch.objects.bulk_create(
                CallBatch(
                    agency=tenant.agency, campaign=tenant.campaign, agent_mapping=tenant.agent, from_number=CALLER_ID
                )
                for _ in range(count)
            )
        parameters = {"limit": 100, "batch_id": str(harbour.batch(queued=count).pk)}
        with CaptureQueriesContext(connection) as queries:
            assert viewer.get(f"{FUNCTIONS}{path}", parameters).status_code == 200
        return [query["sql"] for query in queries if 'FROM "c' in query["sql"]]

    few, lots = statements(3), statements(300)

    assert len(few) == len(lots) == {"list": 3, "get": 4}[path]
