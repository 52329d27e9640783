"""NULL, and slugs that occur twice, in the tables that the app only reads."""

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from calls.models import Agency, AgencyPhoneNumber, AgencyUser, AgentMapping, CallBatch, Campaign
from calls.tests.support.factories import call

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted, pytest.mark.usefixtures("_as_adopted")]

NULLABLE = {
    "agencies": ["name", "slug", "webhook_secret", "settings", "created_at", "updated_at"],
    "users": ["role", "email"],
    "campaigns": ["name", "created_at", "updated_at"],
}


@pytest.fixture
def _as_adopted(db):
    """Make the columns nullable, as an adoption adds them, and drop the unique constraint on slugs."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE agencies DROP CONSTRAINT agencies_slug_key")
        for table, columns in NULLABLE.items():
            cursor.execute(f"ALTER TABLE {table} {', '.join(f'ALTER {column} DROP NOT NULL' for column in columns)}")


@pytest.fixture
def nulls(harbour):
    """Harbour, with NULL in each of these columns but the users' roles."""
    with connection.cursor() as cursor:
        for table, columns in NULLABLE.items():
            cursor.execute(f"UPDATE {table} SET {', '.join(f'{name} = NULL' for name in columns if name != 'role')}")
    return harbour


@pytest.mark.parametrize("secret", [None, ""])
@pytest.mark.parametrize("sent", ["None", "null", "%20", "%00"])
def test_an_agency_without_webhook_secret_refuses_all_webhooks(client, harbour, secret, sent):
    Agency.objects.filter(pk=harbour.agency.pk).update(webhook_secret=secret)

    answer = client.post(f"/functions/v1/webhook-ingest/{harbour.agency.pk}/{sent}", b"{}", "application/json")

    assert answer.status_code == 401


def test_batches_are_listed_read_and_cancelled(owner, nulls):
    batch = nulls.batch(queued=2)

    listed = owner.get("/functions/v1/calls-batch-list")
    read = owner.get("/functions/v1/calls-batch-get", {"batch_id": str(batch.pk)})
    cancelled = call(owner, "cancel", {"batch_id": str(batch.pk)})

    assert [answer.status_code for answer in (listed, read, cancelled)] == [200, 200, 200]
    assert read.json()["batch"]["campaign_name"] is None


def test_a_user_without_a_role_reads_and_does_not_write(owner, harbour):
    batch = harbour.batch(queued=1)
    AgencyUser.objects.update(role=None)

    assert owner.get("/functions/v1/calls-batch-get", {"batch_id": str(batch.pk)}).status_code == 200
    assert call(owner, "cancel", {"batch_id": str(batch.pk)}).status_code == 403


def test_the_admin_shows_a_batch_of_an_agency_without_a_name(admin, nulls):
    batch = nulls.batch(queued=1)

    for page in ("callbatch/", f"callbatch/{batch.pk}/change/", "agency/", f"agency/{nulls.agency.pk}/change/"):
        assert admin.get(f"/admin/calls/{page}").status_code in (200, 403)
    assert admin.get("/admin/calls/callbatch/").status_code == 200


@pytest.mark.parametrize("model", [Agency, AgencyUser, Campaign, AgentMapping, AgencyPhoneNumber])
def test_a_row_without_a_name_is_shown_by_its_id(model):
    row = model(id=CallBatch().pk)
    for name in ("name", "slug", "email", "ultravox_agent_id", "phone_number"):
        setattr(row, name, None)

    assert str(row) == str(row.pk)


def test_a_slug_of_two_agencies_is_refused_by_commands(harbour, bluebell):
    batch = harbour.batch(queued=1)
    Agency.objects.update(slug="twice")

    with pytest.raises(CommandError, match="more than one agency has the slug 'twice'") as refused:
        call_command("cancel_batch", str(batch.pk), "--agency", "twice")

    assert refused.value.returncode == 2
