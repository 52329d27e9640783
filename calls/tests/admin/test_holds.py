"""Holding and releasing an agency in the admin, and the banner that shows a hold."""

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError
from django.test import Client
from django.urls import reverse

from calls.audit import Source
from calls.exceptions import AgencyUpdateFailed, HoldUnconfirmed
from calls.models import Agency
from calls.tests.support.admin_pages import (
    AGENCIES,
    BATCHES,
    CONTACTS,
    UNKNOWN_ID,
    agency_page_of,
    confirmation_of,
    hidden_fields,
    messages_at,
    page_of,
    queries,
    replacement_page_of,
    signed_in,
    text_of,
)
from calls.tests.support.factories import STAFF_ACTOR, Tenant, batch_snapshot, cancel, pause, staff

pytestmark = pytest.mark.django_db

actions = pytest.mark.parametrize("action", ["hold", "release"])


def hold(tenant, reason=None):
    return tenant.agency.hold(actor=STAFF_ACTOR, source=Source.API, reason=reason)


def release(tenant):
    return tenant.agency.release(actor=STAFF_ACTOR, source=Source.API)


def held_at(tenant):
    return Agency.objects.values_list("held_at", flat=True).get(pk=tenant.agency.pk)


def history_of(tenant):
    return list(tenant.agency.events.order_by("pk").values_list("pgh_label", "pgh_context"))


def has_banner(client, address):
    response = client.get(address)
    assert response.status_code == 200
    return 'class="agency-held"' in response.content.decode()


# The buttons


def test_an_agencys_page_offers_a_hold_and_while_it_is_on_hold_a_release(harbour, admin):
    assert (
        f'class="button danger" href="{agency_page_of(harbour, "hold")}"'
        in admin.get(agency_page_of(harbour)).content.decode()
    )
    hold(harbour)

    page = text_of(admin.get(agency_page_of(harbour)))

    assert "Release agency" in page
    assert "Hold agency" not in page


@actions
def test_the_button_leads_to_a_page_that_changes_nothing(harbour, admin, action):
    batch = harbour.batch(queued=1)
    before = batch_snapshot(batch)

    text = text_of(admin.get(agency_page_of(harbour, action)))

    assert f"{action.title()} agency No, go back" in text
    assert (held_at(harbour), history_of(harbour), batch_snapshot(batch)) == (None, [], before)


# Holding and releasing


def test_a_hold_is_stored_with_its_reason_and_reported(harbour, bluebell, admin, operator):
    harbour.batch(queued=1)

    response = admin.post(agency_page_of(harbour, "hold"), {"reason": "The client called"})

    assert (response.status_code, response["Location"]) == (302, agency_page_of(harbour))
    assert messages_at(admin, response["Location"]) == [
        ("success", "Harbour is on hold. 0 calls in progress will finish.")
    ]
    assert held_at(harbour) is not None
    assert held_at(bluebell) is None
    actor = {"kind": "staff", "id": str(operator.pk), "label": "operator"}
    assert history_of(harbour) == [("held", {"actor": actor, "via": "admin", "reason": "The client called"})]
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.get_change_message()) == (
        str(harbour.agency.pk),
        "Harbour is on hold. 0 calls in progress will finish.",
    )


def test_a_hold_leaves_the_batches_as_they_are(harbour, admin):
    batch = harbour.batch(queued=2)
    before = batch_snapshot(batch)

    admin.post(agency_page_of(harbour, "hold"))

    assert batch_snapshot(batch) == before


def test_a_second_hold_keeps_the_time_of_the_first(harbour, admin):
    admin.post(agency_page_of(harbour, "hold"))
    since = held_at(harbour)

    admin.post(agency_page_of(harbour, "hold"))

    assert held_at(harbour) == since
    assert len(history_of(harbour)) == 1


def test_a_release_ends_the_hold(harbour, admin):
    hold(harbour)

    response = admin.post(agency_page_of(harbour, "release"))

    assert messages_at(admin, response["Location"]) == [("success", "Harbour has been released.")]
    assert held_at(harbour) is None
    assert [label for label, _ in history_of(harbour)] == ["held", "released"]


def test_a_release_has_no_reason(harbour, admin):
    hold(harbour)

    assert 'name="reason"' not in admin.get(agency_page_of(harbour, "release")).content.decode()
    admin.post(agency_page_of(harbour, "release"), {"reason": "x" * 501})

    assert "reason" not in history_of(harbour)[-1][1]


def test_a_reason_that_is_too_long_shows_the_page_again_with_the_operators_text(harbour, admin):
    response = admin.post(agency_page_of(harbour, "hold"), {"reason": "x" * 501})

    assert response.status_code == 200
    assert "at most 500 characters" in text_of(response)
    assert f'value="{"x" * 501}"' in response.content.decode()
    assert held_at(harbour) is None


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (AgencyUpdateFailed, "Failed to update agency. It is safe to try again."),
        (HoldUnconfirmed, "The agency is on hold, but a call that was about to start may still start."),
    ],
)
def test_a_failure_is_reported(harbour, admin, monkeypatch, failure, text):
    def fail(self, **kwargs):
        raise failure

    monkeypatch.setattr(Agency, "hold", fail)

    response = admin.post(agency_page_of(harbour, "hold"))

    ((level, message),) = messages_at(admin, response["Location"])
    assert level == "error"
    assert message.startswith(text)
    assert LogEntry.objects.count() == 0


def test_a_database_error_is_reported(harbour, admin, monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError

    monkeypatch.setattr("calls.models.agency.pghistory.create_event", fail)

    response = admin.post(agency_page_of(harbour, "hold"))

    assert messages_at(admin, response["Location"]) == [("error", "Failed to update agency. It is safe to try again.")]
    assert held_at(harbour) is None


def test_the_page_shows_the_history_of_holds_newest_first(harbour, admin):
    hold(harbour, reason="Wrong <b>script</b>")
    release(harbour)

    text = text_of(admin.get(agency_page_of(harbour)))

    history = text.split("Holds: who did what, newest first")[1]
    assert history.index("Released a staff user (staff) api") < history.index("Held a staff user (staff) api")
    assert "Held a staff user (staff) api Wrong &lt;b&gt;script&lt;/b&gt;" in history
    assert "Contacts skipped" not in history


def test_the_page_of_an_agency_that_was_never_held_says_so(harbour, admin):
    assert "Nothing has been recorded." in text_of(admin.get(agency_page_of(harbour)))


# Which requests are refused


@actions
@pytest.mark.parametrize(
    "permissions", [["view_agency"], ["view_agency", "change_agency"], ["hold_agency"], ["view_callbatch"]], ids=str
)
def test_holding_and_releasing_need_their_own_permission(harbour, action, permissions):
    client = signed_in(staff("employee", *permissions))

    assert client.get(agency_page_of(harbour, action)).status_code == 403
    assert client.post(agency_page_of(harbour, action)).status_code == 403
    assert history_of(harbour) == []
    if "view_agency" in permissions:
        assert "Hold agency" not in text_of(client.get(agency_page_of(harbour)))


@actions
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_only_a_post_changes_anything(harbour, admin, action, method):
    if action == "release":
        hold(harbour)
    before = held_at(harbour)

    response = admin.generic(method, f"{agency_page_of(harbour, action)}?reason=x", "reason=x")

    assert response.status_code == (200 if method in ("GET", "HEAD") else 405)
    assert held_at(harbour) == before


@actions
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_agency_is_not_found(admin, action, method):
    assert admin.generic(method, f"{AGENCIES}{UNKNOWN_ID}/{action}/").status_code == 404


@actions
def test_an_anonymous_user_is_redirected_to_the_sign_in_page(harbour, action):
    client = Client(headers={"X-Forwarded-Proto": "https"})

    assert client.post(agency_page_of(harbour, action))["Location"].startswith("/admin/login/")
    assert history_of(harbour) == []


def test_a_request_from_another_site_is_refused_and_one_from_the_page_is_accepted(harbour, operator):
    client = Client(enforce_csrf_checks=True, headers={"Origin": "https://testserver"})
    client.force_login(operator)
    address = agency_page_of(harbour, "hold")
    fields = hidden_fields(client.get(address, secure=True))

    assert client.post(address, secure=True).status_code == 403
    assert held_at(harbour) is None

    assert client.post(address, fields, secure=True).status_code == 302
    assert held_at(harbour) is not None


# The banner


def pages_about(tenant):
    """Return the addresses of all pages about the batches of an agency."""
    batch, paused, cancelled = tenant.batch(queued=1), tenant.batch(queued=1), tenant.batch(queued=1)
    pause(paused)
    cancel(cancelled)
    return [
        *(BATCHES, page_of(batch), page_of(cancelled), f"{CONTACTS}?batch={batch.pk}"),
        *(confirmation_of(batch), confirmation_of(batch, verb="pause"), confirmation_of(paused, verb="resume")),
        replacement_page_of(cancelled),
        reverse("admin:calls_campaigncontact_change", args=[batch.contacts.get().pk]),
        *(agency_page_of(tenant, action) for action in ("change", "hold", "release", "cancel-all")),
    ]


def test_every_page_about_the_agencys_batches_has_the_banner_during_a_hold_only(harbour, admin):
    addresses = pages_about(harbour)

    before = [address for address in addresses if has_banner(admin, address)]
    hold(harbour)
    during = [address for address in addresses if has_banner(admin, address)]
    release(harbour)
    after = [address for address in addresses if has_banner(admin, address)]

    assert (before, during, after) == ([], addresses, [])


def test_the_banner_says_since_when_and_what_it_means(harbour, admin):
    batch = harbour.batch(queued=1)
    hold(harbour)

    since = f"{held_at(harbour):%Y-%m-%d %H:%M:%S} UTC"
    banner = f"Harbour has been on hold since {since}. No calls start in any of its batches."
    assert banner in text_of(admin.get(page_of(batch)))


def test_pages_about_other_agencies_have_no_banner(harbour, bluebell, admin):
    addresses = [address for address in pages_about(bluebell) if address != BATCHES]
    hold(harbour)

    assert [address for address in addresses if has_banner(admin, address)] == []


def test_the_list_has_the_banner_only_when_it_shows_a_batch_of_the_agency(harbour, bluebell, admin):
    harbour.batch(queued=1)
    bluebell.batch(queued=1)
    hold(harbour)

    assert has_banner(admin, BATCHES)
    assert has_banner(admin, f"{BATCHES}?agency=harbour")
    assert not has_banner(admin, f"{BATCHES}?agency=bluebell")


def test_the_list_names_each_agency_on_hold_once(harbour, bluebell, admin):
    for tenant in (harbour, harbour, bluebell):
        tenant.batch(queued=1)
    hold(harbour)
    hold(bluebell)

    page = text_of(admin.get(BATCHES))

    assert [page.count(f"{name} has been on hold since") for name in ("Harbour", "Bluebell")] == [1, 1]


# The lists


def test_the_list_of_agencies_shows_when_an_agency_was_put_on_hold(harbour, bluebell, admin):
    hold(harbour)

    text = text_of(admin.get(AGENCIES))

    assert f"Harbour harbour {held_at(harbour):%Y-%m-%d %H:%M:%S} UTC" in text
    assert "Bluebell bluebell -" in text


def test_the_list_of_batches_takes_the_same_queries_with_3_and_with_30_agencies_on_hold(admin):
    def batches(count, prefix):
        for index in range(count):
            tenant = Tenant.create(f"{prefix}-{index}")
            tenant.batch(queued=1)
            hold(tenant)

    batches(3, "few")
    few = queries(admin, BATCHES)
    batches(27, "many")

    assert len(queries(admin, BATCHES)) == len(few)


def test_the_list_of_agencies_takes_the_same_queries_with_3_and_with_30_agencies(admin):
    for index in range(3):
        hold(Tenant.create(f"few-{index}"))
    few = queries(admin, AGENCIES)
    for index in range(27):
        hold(Tenant.create(f"many-{index}"))

    assert len(queries(admin, AGENCIES)) == len(few)
