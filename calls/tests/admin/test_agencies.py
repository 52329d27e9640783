"""The agencies in the admin: the limit of calls, and the key of an agency's own account, which is never shown."""

import logging

import pytest
from cryptography.fernet import Fernet
from django.contrib.admin.models import LogEntry

from calls.audit import Source
from calls.credentials import decrypt
from calls.models import Agency
from calls.tests.support.admin_pages import listed_ids, messages_at, signed_in, text_of
from calls.tests.support.factories import STAFF_ACTOR, staff

pytestmark = pytest.mark.django_db

AGENCIES = "/admin/calls/agency/"
SECRET = "the-key-of-harbour"


@pytest.fixture(autouse=True)
def encrypted(settings):
    settings.CREDENTIALS_KEYS = [Fernet.generate_key().decode()]


@pytest.fixture
def clerk(db):
    """A browser session of a user who may look at agencies, change their limits and set their keys."""
    return signed_in(staff("clerk", "view_agency", "change_agency", "set_ultravox_key"))


def page_of(tenant):
    return f"{AGENCIES}{tenant.agency.pk}/change/"


def key_page_of(tenant):
    return f"{AGENCIES}{tenant.agency.pk}/ultravox-key/"


def stored(tenant):
    token = Agency.objects.values_list("ultravox_api_key_encrypted", flat=True).get(pk=tenant.agency.pk)
    return decrypt(bytes(token)) if token else None


def limit_of(tenant):
    return Agency.objects.values_list("max_concurrent_calls", flat=True).get(pk=tenant.agency.pk)


# The list and the page


def test_the_list_finds_agencies_by_name_and_slug(harbour, bluebell, clerk):
    assert listed_ids(clerk, AGENCIES) == [bluebell.agency.pk, harbour.agency.pk]
    assert listed_ids(clerk, AGENCIES, q="harb") == [harbour.agency.pk]


def test_the_page_shows_no_secret(harbour, clerk):
    harbour.agency.set_ultravox_key(SECRET, actor=STAFF_ACTOR, source=Source.ADMIN)
    Agency.objects.update(webhook_secret="hook-secret", webhook_signing_secret="signing-secret")
    token = bytes(Agency.objects.get(pk=harbour.agency.pk).ultravox_api_key_encrypted).decode()

    for address in (AGENCIES, page_of(harbour), key_page_of(harbour)):
        page = clerk.get(address).content.decode()
        assert [secret for secret in (SECRET, token, "hook-secret", "signing-secret") if secret in page] == []


def test_the_page_says_what_is_wrong_with_the_key_now(harbour, clerk):
    assert "The agency has no Ultravox key. Set one in the admin" in text_of(clerk.get(page_of(harbour)))
    clerk.post(key_page_of(harbour), {"key": SECRET})
    assert "No problem found." in text_of(clerk.get(page_of(harbour)))


@pytest.mark.parametrize(("value", "limit"), [("7", 7), ("2147483647", 2147483647), ("", None)])
def test_the_limit_is_a_positive_number_or_empty(harbour, clerk, value, limit):
    Agency.objects.update(max_concurrent_calls=3)

    assert clerk.post(page_of(harbour), {"max_concurrent_calls": value}).status_code == 302
    assert limit_of(harbour) == limit


@pytest.mark.parametrize("value", ["0", "-1", "2147483648", "1.5", "many"])
def test_any_other_limit_is_refused(harbour, clerk, value):
    Agency.objects.update(max_concurrent_calls=3)

    response = clerk.post(page_of(harbour), {"max_concurrent_calls": value})

    assert response.status_code == 200
    assert response.context["errors"]
    assert limit_of(harbour) == 3


def test_a_save_writes_the_limit_and_no_other_column(harbour, clerk):
    before = Agency.objects.values().get(pk=harbour.agency.pk)
    fields = {
        "max_concurrent_calls": "7",
        "name": "x",
        "slug": "x",
        "dial_after": "",
        "ultravox_api_key_encrypted": "x",
    }

    clerk.post(page_of(harbour), fields)

    after = Agency.objects.values().get(pk=harbour.agency.pk)
    assert {name for name in after if after[name] != before[name]} == {"max_concurrent_calls", "updated_at"}


def test_a_user_who_may_only_view_agencies_can_change_nothing(harbour):
    viewer = signed_in(staff("viewer", "view_agency"))

    page = viewer.get(page_of(harbour)).content.decode()

    assert "Set Ultravox key" not in page
    assert 'name="max_concurrent_calls"' not in page
    assert viewer.post(page_of(harbour), {"max_concurrent_calls": "7"}).status_code == 403
    assert limit_of(harbour) is None


# The key


def test_the_key_is_stored_encrypted_and_the_history_does_not_contain_it(harbour, bluebell, clerk, caplog):
    with caplog.at_level(logging.DEBUG):
        response = clerk.post(key_page_of(harbour), {"key": f" {SECRET}\n"})

    assert response.status_code == 302
    assert stored(harbour) == SECRET
    assert stored(bluebell) is None
    assert messages_at(clerk, response["Location"]) == [
        ("success", "Set the Ultravox key. Workers notice it within a minute.")
    ]
    (entry,) = LogEntry.objects.all()
    assert (entry.get_change_message(), entry.object_id) == ("Set the Ultravox key", str(harbour.agency.pk))
    assert f"set_ultravox_key agency={harbour.agency.pk} source=admin actor=staff:" in caplog.text
    assert SECRET not in caplog.text


def test_the_stored_key_can_be_removed(harbour, clerk):
    assert "Remove the stored key" not in clerk.get(key_page_of(harbour)).content.decode()
    harbour.agency.set_ultravox_key(SECRET, actor=STAFF_ACTOR, source=Source.ADMIN)
    assert "Remove the stored key" in clerk.get(key_page_of(harbour)).content.decode()

    clerk.post(key_page_of(harbour), {"key": "", "remove": "on"})

    assert stored(harbour) is None
    assert LogEntry.objects.get().get_change_message() == "Removed the Ultravox key"


@pytest.mark.parametrize("key", ["", " ", "an-unusual key", "an-unusual-k\u00e9y", "x" * 501])
def test_what_cannot_be_a_key_is_refused_and_not_shown_again(harbour, clerk, key):
    response = clerk.post(key_page_of(harbour), {"key": key})

    assert response.status_code == 200
    assert "must have 1 to 500 printable ASCII characters" in text_of(response)
    assert "an-unusual" not in response.content.decode()
    assert "x" * 501 not in response.content.decode()
    assert stored(harbour) is None


def test_without_credentials_keys_nothing_is_stored_and_a_message_says_so(harbour, clerk, settings):
    settings.CREDENTIALS_KEYS = []

    response = clerk.post(key_page_of(harbour), {"key": SECRET})

    assert messages_at(clerk, response["Location"]) == [
        ("error", "CREDENTIALS_KEYS is not set. Ultravox keys cannot be stored or read without it.")
    ]
    assert (stored(harbour), LogEntry.objects.count()) == (None, 0)


@pytest.mark.parametrize(
    "permissions", [["view_agency"], ["view_agency", "change_agency"], ["set_ultravox_key"]], ids=str
)
def test_setting_the_key_needs_its_own_permission(harbour, permissions):
    client = signed_in(staff("employee", *permissions))

    assert client.get(key_page_of(harbour)).status_code == 403
    assert client.post(key_page_of(harbour), {"key": SECRET}).status_code == 403
    assert stored(harbour) is None


def test_a_superuser_may_set_the_key(harbour, admin, operator):
    operator.is_superuser = True
    operator.save()

    assert key_page_of(harbour) in admin.get(page_of(harbour)).content.decode()
    admin.post(key_page_of(harbour), {"key": SECRET})

    assert stored(harbour) == SECRET


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_only_a_post_changes_the_key(harbour, clerk, method):
    clerk.generic(method, f"{key_page_of(harbour)}?key={SECRET}", f"key={SECRET}", "application/x-www-form-urlencoded")

    assert stored(harbour) is None


def test_an_unknown_agency_is_not_found(harbour, clerk):
    assert clerk.get(f"{AGENCIES}01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10/ultravox-key/").status_code == 404
