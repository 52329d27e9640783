"""Permissions of the admin's pages, CSRF protection and the content security policy."""

import re

import pytest
from django.contrib.admin import site
from django.test import Client
from django.urls import reverse

from calls.models import Agency, CallBatch, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    BATCHES,
    CONTACTS,
    confirmation_of,
    hidden_fields,
    page_of,
    select,
    signed_in,
)
from calls.tests.support.factories import batch_snapshot, cancel, count, staff

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "model", [model for model in site._registry if model._meta.app_label != "procrastinate"], ids=str
)
@pytest.mark.parametrize("user", ["operator", "superuser"])
def test_each_page_opens_only_for_users_with_the_permission(harbour, admin, operator, model, user):
    operator.is_superuser = user == "superuser"
    operator.save()
    cancel(harbour.batch(queued=3, completed=1))
    permitted = user == "superuser" or model in (Agency, CallBatch, CampaignContact)
    ours = model._meta.app_label == "calls"
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    row = model.objects.first()

    responses = {
        action: admin.get(
            reverse(f"{name}_{action}", args=[row.pk] if action in ("change", "history") else []), follow=True
        )
        for action in ("changelist", "add", "change", "history")
    }

    opened = {action for action, response in responses.items() if response.status_code == 200}
    assert {response.status_code for response in responses.values()} <= {200, 403}
    pages = {"changelist", "change", "history"} if ours else {"changelist", "add", "change", "history"}
    assert opened == (pages if permitted else set())


@pytest.mark.parametrize("address", [BATCHES, CONTACTS, f"{BATCHES}cancel/"])
def test_an_anonymous_user_is_redirected_to_the_sign_in_page(address):
    response = Client(headers={"X-Forwarded-Proto": "https"}).get(address)

    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={address}")


def test_no_user_can_add_edit_or_delete_superusers_included(harbour, admin, operator):
    operator.is_superuser = True
    operator.save()
    batch = harbour.batch(queued=1)

    for address in (BATCHES, CONTACTS):
        pk = batch.pk if address == BATCHES else batch.contacts.get().pk
        for action in ("add/", f"{pk}/change/", f"{pk}/delete/"):
            assert admin.post(address + action, {"status": "cancelled"}).status_code == 403
        admin.post(address, {"action": "delete_selected", "_selected_action": [str(pk)], "post": "yes"})
    batch.refresh_from_db()
    assert (batch.status, batch.contacts.count()) == (BatchStatus.PROCESSING, 1)


@pytest.mark.parametrize("permissions", [["view_callbatch"], ["view_callbatch", "change_callbatch"]], ids=str)
def test_cancelling_needs_its_own_permission(harbour, permissions):
    batch = harbour.batch(queued=3)
    before = batch_snapshot(batch)
    client = signed_in(staff("employee", *permissions))

    assert "cancel_selected" not in client.get(BATCHES).content.decode()
    assert "Cancel batch" not in client.get(page_of(batch)).content.decode()
    assert "cancel/" not in select(client, batch).headers.get("Location", "")
    assert client.get(confirmation_of(batch)).status_code == 403
    assert client.post(confirmation_of(batch)).status_code == 403
    assert batch_snapshot(batch) == before


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_the_list_offers_only_actions_that_the_user_may_perform(harbour, verb):
    client = signed_in(staff("employee", "view_callbatch", f"{verb}_callbatch"))
    harbour.batch(queued=1)

    offered = re.findall(r'<option value="(\w+_selected)"', client.get(BATCHES).content.decode())

    assert offered == [f"{verb}_selected"]


def test_call_operators_may_view_stop_and_replace_batches_and_hold_agencies_and_nothing_else(operator):
    assert operator.get_all_permissions() == {
        "calls.view_callbatch",
        "calls.cancel_callbatch",
        "calls.pause_callbatch",
        "calls.resume_callbatch",
        "calls.replace_callbatch",
        "calls.view_campaigncontact",
        "calls.view_agency",
        "calls.hold_agency",
    }


def test_a_user_who_may_not_view_contacts_gets_no_link_to_them(harbour):
    client = signed_in(staff("viewer", "view_callbatch"))
    batch = harbour.batch(queued=1)

    assert CONTACTS not in client.get(page_of(batch)).content.decode()
    assert client.get(CONTACTS).status_code == 403


def test_a_request_from_another_site_is_refused_and_one_from_the_page_is_accepted(harbour, operator):
    batch = harbour.batch(queued=3)
    client = Client(enforce_csrf_checks=True, headers={"Origin": "https://testserver"})
    client.force_login(operator)
    fields = hidden_fields(client.get(confirmation_of(batch), secure=True))

    forged = {name: value for name, value in fields.items() if name != "csrfmiddlewaretoken"}
    assert client.post(confirmation_of(batch), forged, secure=True).status_code == 403
    assert count(batch, ContactStatus.QUEUED) == 3

    assert client.post(confirmation_of(batch), fields, secure=True).status_code == 302
    assert count(batch, ContactStatus.SKIPPED) == 3


def test_a_batchs_page_is_found_by_its_id_only(harbour, admin):
    batch = harbour.batch()

    for name in ("", "status", "nonsense"):
        assert admin.get(page_of(batch), {"_to_field": name}).status_code in (200, 400)


def test_the_view_on_site_redirect_is_disabled(admin):
    assert admin.get("/admin/r/1/1/").status_code == 404


@pytest.mark.parametrize("address", ["/admin/login/", "/admin/", BATCHES, CONTACTS, "page", "confirmation"])
def test_the_security_policy_allows_no_inline_script_or_style(harbour, admin, address):
    batch = harbour.batch(queued=1)
    address = {"page": page_of(batch), "confirmation": confirmation_of(batch)}.get(address, address)

    response = admin.get(address)
    policy = dict(directive.split(" ", 1) for directive in response["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=|javascript:", response.content.decode())
