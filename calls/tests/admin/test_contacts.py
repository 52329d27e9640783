"""The list of contacts."""

import pytest

from calls.admin.base import BoundedPaginator
from calls.models import CampaignContact
from calls.tests.support.admin_pages import BATCHES, CONTACTS, listed_ids, page_of, text_of
from calls.tests.support.factories import PHONE

pytestmark = pytest.mark.django_db


def test_contacts_are_listed_by_batch_and_status(harbour, admin):
    batch = harbour.batch(queued=1, pending=1, completed=1)
    harbour.batch(queued=1)
    first, second, third = batch.contacts.order_by("pk").values_list("pk", flat=True)

    assert listed_ids(admin, CONTACTS, batch=str(batch.pk)) == [first, second, third]
    assert listed_ids(admin, CONTACTS, batch=str(batch.pk), status="completed") == [third]
    assert listed_ids(admin, CONTACTS, batch=str(batch.pk), status="left") == [first, second]


@pytest.mark.parametrize("parameters", [{"batch": "nonsense"}, {"status": "exploded"}], ids=str)
def test_a_malformed_batch_or_status_finds_nothing(harbour, admin, parameters):
    batch = harbour.batch(queued=1)

    assert listed_ids(admin, CONTACTS, **{"batch": str(batch.pk)} | parameters) == []


def test_the_status_filter_is_offered_only_within_a_batch(harbour, admin):
    batch = harbour.batch(queued=1)

    assert "By status" not in text_of(admin.get(CONTACTS))
    assert "By status" in text_of(admin.get(CONTACTS, {"batch": str(batch.pk)}))


def test_a_contact_is_found_by_its_whole_number(harbour, admin):
    batch = harbour.batch(queued=2)
    contact = batch.contacts.first()
    CampaignContact.objects.filter(pk=contact.pk).update(phone_number="+447700900123")

    assert listed_ids(admin, CONTACTS, q="+44 7700 900123") == [contact.pk]
    assert listed_ids(admin, CONTACTS, q="+44 7700") == []


@pytest.mark.parametrize(
    "number",
    [
        *("'+447700900321", " '+44 7700 900321", "+44 (0)7700 900321", "+44(0) 7700 900321", "0044 (0)7700 900321"),
        *("0044 7700 900321", "44 7700 900321", "+44.7700.900321", "+44-7700-900321", "+44 (7700) 900321"),
    ],
)
@pytest.mark.parametrize("address", [BATCHES, CONTACTS])
def test_a_number_is_found_as_people_and_spreadsheets_write_it(harbour, admin, address, number):
    batch, _ = harbour.batch(queued=1), harbour.batch(queued=1)
    batch.contacts.update(phone_number="+447700900321")

    assert listed_ids(admin, address, q=number) == [batch.pk if address == BATCHES else batch.contacts.get().pk]


@pytest.mark.parametrize("number", ["(0)7700 900321", "''+447700900321", "+44 00 7700 900321"])
def test_a_number_without_a_country_code_or_with_other_signs_finds_nothing(harbour, admin, number):
    harbour.batch(queued=1).contacts.update(phone_number="+447700900321")

    assert listed_ids(admin, CONTACTS, q=number) == []


def test_a_search_by_number_shows_each_contacts_batch(harbour, bluebell, admin):
    batch = harbour.batch(queued=1)
    bluebell.batch(queued=1)

    response = admin.get(CONTACTS, {"q": PHONE})

    assert f'<a href="{page_of(batch)}">Harbour: Spring</a>' in response.content.decode()
    assert "Bluebell: Spring" in text_of(response)


def test_a_batchs_contacts_name_it_and_link_back_to_it(harbour, admin):
    batch = harbour.batch(queued=1)

    response = admin.get(CONTACTS, {"batch": str(batch.pk)})

    assert "Contacts of Harbour: Spring View the batch" in text_of(response)
    assert f'<a href="{page_of(batch)}">' in response.content.decode()


@pytest.mark.parametrize(("contacts", "more"), [(3, False), (4, True)])
def test_the_list_of_all_contacts_ends_at_a_limit_and_says_so(harbour, admin, monkeypatch, contacts, more):
    monkeypatch.setattr(BoundedPaginator, "LIMIT", 3)
    batch = harbour.batch(queued=contacts)

    response = admin.get(CONTACTS)

    assert response.context["cl"].result_count == 3
    assert ("Only the first 3 contacts are counted and listed." in text_of(response)) is more
    assert len(listed_ids(admin, CONTACTS, batch=str(batch.pk))) == contacts


def test_an_empty_batch_parameter_is_ignored(harbour, admin):
    assert "By status" not in text_of(admin.get(CONTACTS, {"batch": ""}))
