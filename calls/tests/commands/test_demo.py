"""manage.py demo: the data that it loads, and the commands that it prints."""

import re
import shlex
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command
from django.db.models import Count
from django.test import RequestFactory

from calls.models import Agency, AgencyUser, CallBatch, CampaignContact
from calls.roles import Role
from calls.statuses import BatchStatus
from calls.tests.support.factories import FUNCTIONS, call, client_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def demo(settings):
    """Run the command with DEBUG, and return what it prints."""
    settings.DEBUG = True

    def demo():
        out = StringIO()
        call_command("demo", "--address", "http://127.0.0.1:8000", stdout=out)
        return out.getvalue()

    return demo


def run_curl(client, printed):
    """Send the request of the printed curl command."""
    line = re.search(r"^curl (?:[^\n]*\\\n)+[^\n]*", printed, re.MULTILINE)[0].replace("\\\n", " ")
    options = shlex.split(line)
    assert options[:3] == ["curl", "-X", "POST"]
    scheme, _, token = options[options.index("-H") + 1].partition(": ")[2].partition(" ")
    path = options[3].removeprefix("http://127.0.0.1:8000")
    return client.generic("POST", path, options[options.index("-d") + 1], HTTP_AUTHORIZATION=f"{scheme} {token}")


def test_it_loads_the_batch_of_the_readme_with_342_contacts_left_to_dial(demo):
    demo()

    batch = CallBatch.objects.get(total_contacts=747)
    assert batch.status == BatchStatus.PROCESSING
    assert (batch.queued, batch.in_progress, batch.completed + batch.failed) == (342, 5, 400)
    assert batch.contacts.dialable().count() == 342


def test_it_loads_two_agencies_a_user_of_each_role_and_two_staff_users(demo):
    demo()

    assert Agency.objects.count() == 2
    assert set(AgencyUser.objects.values_list("role", flat=True)) == set(Role)
    assert AgencyUser.objects.values("email").distinct().count() == AgencyUser.objects.count()
    request = RequestFactory().post("/admin/login/")
    assert authenticate(request, username="demo", password="demo").is_superuser
    operator = authenticate(request, username="operator", password="operator")
    assert operator.is_staff
    assert operator.has_perm("calls.cancel_callbatch")


def test_it_loads_batches_in_every_status_with_correct_counters(demo):
    demo()

    assert set(CallBatch.objects.values_list("status", flat=True)) == set(BatchStatus)
    for batch in CallBatch.objects.all():
        contacts = dict(batch.contacts.values_list("status").annotate(Count("pk")))
        waiting = sum(contacts.pop(status, 0) for status in ("pending", "queued", "scheduled"))
        assert batch.queued == waiting
        assert contacts == {name: getattr(batch, name) for name in contacts}
        assert batch.queued + batch.in_progress + batch.completed + batch.failed + batch.skipped == batch.total_contacts


def test_its_phone_numbers_are_reserved_for_fiction(demo):
    demo()

    reserved = re.compile(r"\+1[2-9]\d\d55501\d\d|\+447700900\d\d\d")
    numbers = CampaignContact.objects.values_list("phone_number", flat=True)
    assert [number for number in numbers if not reserved.fullmatch(number)] == []


def test_the_printed_curl_command_cancels_the_batch(demo, client):
    response = run_curl(client, demo())

    assert response.status_code == 200
    assert response.json()["contacts_skipped"] == 342


def test_the_examples_of_the_docs_page_work_with_its_data(demo, client):
    demo()
    owner = client_of(AgencyUser.objects.get(email="owner@harbour-pine.example"))
    create = client.get("/openapi.json", secure=True).json()["paths"][f"{FUNCTIONS}create"]["post"]
    new, replacement = (
        example["value"] for example in create["requestBody"]["content"]["application/json"]["examples"].values()
    )

    assert call(owner, "create", new).status_code == 201
    assert call(owner, "cancel", {"batch_id": replacement["replaces"]}).status_code == 200
    assert call(owner, "create", replacement).status_code == 201


def test_a_second_run_keeps_the_data_and_prints_another_batch(demo, client):
    run_curl(client, demo())
    agencies = list(Agency.objects.values())

    response = run_curl(client, demo())

    assert (response.status_code, response.json()["contacts_skipped"]) == (200, 120)
    assert list(Agency.objects.values()) == agencies


def test_it_says_how_to_start_with_new_data_when_no_batch_can_be_cancelled(demo):
    demo()
    CallBatch.objects.update(status=BatchStatus.CANCELLED)

    assert "To start with new data: make clean" in demo()


def test_it_refuses_to_run_in_production():
    with pytest.raises(CommandError, match="DJANGO_DEBUG"):
        call_command("demo")

    assert not Agency.objects.exists()
