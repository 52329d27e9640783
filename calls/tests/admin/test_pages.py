"""The admin as a place to look: the list of batches, a batch's page, its contacts."""

import re
from datetime import UTC, datetime

import pytest
from django.contrib.admin import site
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from calls.admin.actions import BATCHES_AT_ONCE
from calls.admin.base import BoundedPaginator
from calls.admin.batches import HISTORY_SHOWN
from calls.models import Agency, CallBatch, Campaign, CampaignContact
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.factories import PHONE, cancel, staff

pytestmark = pytest.mark.django_db

BATCHES = "/admin/calls/callbatch/"
CONTACTS = "/admin/calls/campaigncontact/"


def page_of(batch):
    return f"{BATCHES}{batch.pk}/change/"


def listed(client, address, **parameters):
    """The ids on a list's page, in its order."""
    response = client.get(address, parameters)
    assert response.status_code == 200, response.headers
    return [row.pk for row in response.context["cl"].result_list]


def words(response):
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", response.content.decode()).split())


def queries(client, address, **parameters):
    """What a page sends to the database, once what a process remembers is known."""
    client.get(address, parameters)
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(address, parameters).status_code == 200
    return [query["sql"] for query in captured]


# Opening


@pytest.mark.parametrize(
    "model", [model for model in site._registry if model._meta.app_label != "procrastinate"], ids=str
)
@pytest.mark.parametrize("who", ["operator", "superuser"])
def test_every_page_opens_for_whoever_may_see_it(harbour, admin, operator, model, who):
    operator.is_superuser = who == "superuser"
    operator.save()
    cancel(harbour.batch(queued=3, completed=1))
    ours = model._meta.app_label == "calls"
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    some = model.objects.first()

    answers = {
        action: admin.get(
            reverse(f"{name}_{action}", args=[some.pk] if action in ("change", "history") else []), follow=True
        )
        for action in ("changelist", "add", "change", "history")
    }

    seen = {action for action, answer in answers.items() if answer.status_code == 200}
    assert {answer.status_code for answer in answers.values()} <= {200, 403}
    if ours:
        assert seen == {"changelist", "change", "history"}
    else:
        assert seen == ({"changelist", "add", "change", "history"} if who == "superuser" else set())


@pytest.mark.parametrize("address", [BATCHES, CONTACTS, f"{BATCHES}cancel/"])
def test_whoever_has_not_signed_in_is_led_there(address):
    response = Client(headers={"X-Forwarded-Proto": "https"}).get(address)

    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={address}")


def test_nothing_can_be_added_edited_or_deleted_not_even_by_a_superuser(harbour, admin, operator):
    operator.is_superuser = True
    operator.save()
    batch = harbour.batch(queued=1)

    for address in (BATCHES, CONTACTS):
        some = batch.pk if address == BATCHES else batch.contacts.get().pk
        for action in ("add/", f"{some}/change/", f"{some}/delete/"):
            assert admin.post(address + action, {"status": "cancelled"}).status_code == 403
        admin.post(address, {"action": "delete_selected", "_selected_action": [str(some)], "post": "yes"})
    batch.refresh_from_db()
    assert (batch.status, batch.contacts.count()) == (BatchStatus.PROCESSING, 1)


def test_the_id_of_no_batch_is_told(admin):
    for unknown in ("01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10", "nonsense"):
        assert "Perhaps it was deleted?" in words(admin.get(f"{BATCHES}{unknown}/change/", follow=True))


# The list of batches


def test_the_list_says_how_far_each_batch_is_in_words_and_as_parts_of_a_bar(harbour, admin):
    harbour.batch(completed=2, in_progress=1, queued=1)

    response = admin.get(BATCHES)

    assert "Harbour Spring Processing 2 completed 1 in progress 1 left 4 in all 0 minutes" in words(response)
    bar = response.content.decode().split('<svg class="bar"')[1].split("</svg>")[0]
    assert re.findall(r'class="(\w+)"><rect x="([\d.]+)%" width="([\d.]+)%"', bar) == [
        ("completed", "0.000", "50.000"),
        ("in_progress", "50.000", "25.000"),
        ("queued", "75.000", "25.000"),
    ]


def test_an_empty_batch_says_so(harbour, admin):
    harbour.batch()

    assert "Processing 0 in all" in words(admin.get(BATCHES))


def test_counters_that_have_drifted_below_zero_count_as_zero(harbour, admin):
    CallBatch.objects.filter(pk=harbour.batch().pk).update(queued=-3, completed=2)

    response = admin.get(BATCHES)

    assert '"completed"><rect x="0.000%" width="100.000%"' in response.content.decode()
    assert "Processing 2 completed 0 in all" in words(response)


def test_the_newest_batch_is_first(harbour, admin):
    first, second, third = (harbour.batch() for _ in range(3))
    first.save()

    assert listed(admin, BATCHES) == [third.pk, second.pk, first.pk]
    assert listed(admin, BATCHES, o="6") == [third.pk, second.pk, first.pk]


def test_it_filters_by_status(harbour, admin):
    paused = harbour.batch(BatchStatus.PAUSED)
    harbour.batch()

    assert listed(admin, BATCHES, status="paused") == [paused.pk]


def test_it_filters_by_agency(harbour, bluebell, admin):
    batch = harbour.batch()
    bluebell.batch()

    assert listed(admin, BATCHES, agency="harbour") == [batch.pk]


def test_it_drills_down_by_date(harbour, admin):
    batch, other = harbour.batch(), harbour.batch()
    CallBatch.objects.filter(pk=other.pk).update(created_at=datetime(2020, 5, 17, tzinfo=UTC))

    assert listed(admin, BATCHES, created_at__year="2020", created_at__month="5", created_at__day="17") == [other.pk]
    assert listed(admin, BATCHES, created_at__year=str(batch.created_at.year)) == [batch.pk]


@pytest.mark.parametrize("parameters", [{"status": "exploded"}, {"agency": "nobodys"}, {"agency": "\0"}], ids=str)
def test_a_filter_that_it_does_not_offer_finds_nothing(harbour, admin, parameters):
    harbour.batch()

    assert listed(admin, BATCHES, **parameters) == []


@pytest.mark.parametrize(
    "parameter",
    [
        "queued__gte=1",
        "from_number=%00",
        "created_at__year=99999999999",
        "created_at__year=9999",
        "created_at__day=x",
        "_q=1",
    ],
)
def test_a_hand_typed_filter_leads_back_to_the_list(harbour, admin, parameter):
    response = admin.get(f"{BATCHES}?{parameter}")

    assert (response.status_code, response["Location"]) == (302, f"{BATCHES}?e=1")


@pytest.mark.parametrize(
    "term",
    [
        "{pk}",
        "{PK}",
        " {pk} ",
        PHONE,
        "12125550100",
        "+1 (212) 555-0100",
        "001 212 555 0100",
        "tel:+1-212-555-0100",
        "\u202a+1\u2011212\u20115550100\u202c",
        "harb",
        "HARBOUR",
        "pier-9",
        "Spri",
    ],
)
def test_it_searches_by_id_phone_number_agency_and_campaign(harbour, bluebell, admin, term):
    Agency.objects.filter(slug="harbour").update(slug="pier-9")
    Campaign.objects.filter(agency__slug="bluebell").update(name="Autumn")
    batch, other = harbour.batch(queued=2), bluebell.batch(queued=1)
    other.contacts.update(phone_number="+12125550177")

    assert listed(admin, BATCHES, q=term.format(pk=batch.pk, PK=str(batch.pk).upper())) == [batch.pk]


def test_it_searches_by_the_number_that_calls(harbour, admin):
    batch = harbour.batch()

    assert listed(admin, BATCHES, q="+12125550199") == [batch.pk]


@pytest.mark.parametrize(
    "term", ["nothing like it", "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e10", "2125550100", "%", "x" * 2000]
)
def test_a_search_for_something_else_finds_nothing(harbour, admin, term):
    harbour.batch(queued=1)

    assert listed(admin, BATCHES, q=term) == []


@pytest.mark.parametrize("parameters", [{}, {"status": "processing", "agency": "harbour"}, {"q": PHONE}], ids=str)
def test_the_list_takes_the_same_queries_for_3_batches_and_for_a_full_page(harbour, admin, parameters):
    for _ in range(3):
        harbour.batch(queued=1)
    few = queries(admin, BATCHES, **parameters)
    for _ in range(BATCHES_AT_ONCE):
        harbour.batch(queued=1)

    many = queries(admin, BATCHES, **parameters)

    assert len(many) == len(few) <= 11


@pytest.mark.parametrize("number", ["2125550100", "(212) 555-0100", "+1 212 555 0177"])
@pytest.mark.parametrize("address", [BATCHES, CONTACTS])
def test_a_number_that_is_not_found_is_asked_for_in_full(harbour, admin, address, number):
    harbour.batch(queued=1)

    assert "Write all of it, with the country code" in words(admin.get(address, {"q": number}))


def test_nothing_is_said_of_numbers_where_nothing_is_wrong_with_one(harbour, admin):
    harbour.batch(queued=1)

    for term in (PHONE, "nothing like it", ""):
        assert "country code:" not in words(admin.get(BATCHES, {"q": term}))


@pytest.mark.parametrize("parameters", [{}, {"_facets": "1"}, {"all": ""}, {"o": "3"}], ids=str)
def test_contacts_are_counted_up_to_a_limit_and_sorted_by_an_index_alone(harbour, admin, parameters):
    harbour.batch(queued=3)

    counts = [sql for sql in queries(admin, CONTACTS, **parameters) if "COUNT" in sql]
    lists = [sql for sql in queries(admin, CONTACTS, **parameters) if '"campaign_contacts"."first_name"' in sql]

    assert len(counts) == len(lists) == 1
    assert f"LIMIT {BoundedPaginator.LIMIT + 1}" in counts[0]
    assert lists[0].endswith('ORDER BY "campaign_contacts"."id" ASC')


def test_the_list_of_batches_counts_no_contacts(harbour, admin):
    harbour.batch(queued=3)

    assert [sql for sql in queries(admin, BATCHES, _facets="1", all="") if "campaign_contacts" in sql] == []


def explain(client, address, **parameters):
    """The plan of what a list would read, if its tables were too large to be read as a whole."""
    queryset = client.get(address, parameters).context["cl"].queryset
    with connection.cursor() as cursor:
        # Without what earlier tests have left of rows and statistics.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("TRUNCATE call_batches, campaign_contacts CASCADE")
        cursor.execute(
            "DELETE FROM pg_statistic WHERE starelid IN ('call_batches'::regclass, 'campaign_contacts'::regclass)"
        )
        cursor.execute("SET LOCAL enable_seqscan = off")
    return queryset[:50].explain()


@pytest.mark.parametrize(
    ("index", "address", "parameters"),
    [
        ("batch_by_creation", BATCHES, {}),
        ("batch_of_agency", BATCHES, {"status": "processing", "agency": "harbour"}),
        ("contact_by_phone_number", BATCHES, {"q": PHONE}),
        ("contact_by_phone_number", CONTACTS, {"q": PHONE}),
        ("contact_in_order", CONTACTS, {"batch": "{pk}", "status": "left"}),
        ("campaign_contacts_pkey", CONTACTS, {}),
    ],
    ids=str,
)
def test_what_a_list_reads_an_index_finds(harbour, admin, index, address, parameters):
    batch = harbour.batch(queued=3)

    assert index in explain(admin, address, **{key: value.format(pk=batch.pk) for key, value in parameters.items()})


# A batch's page


def test_a_page_shows_every_part_and_leads_to_its_contacts(harbour, admin):
    batch = harbour.batch(completed=2, queued=1)

    response = admin.get(page_of(batch))

    assert (
        "Processing: 3 contacts 2 completed 0 failed 0 skipped 0 in progress 1 left All contacts of this batch"
        in words(response)
    )
    address = re.search(r'href="([^"]*)">1 left', response.content.decode())[1].replace("&amp;", "&")
    assert listed(admin, address) == [batch.contacts.get(status=ContactStatus.QUEUED).pk]


def test_a_page_says_what_happened_and_when(harbour, admin):
    batch = harbour.batch()
    times = {
        name: datetime(2026, 1, 2, hour, tzinfo=UTC)
        for hour, name in enumerate(["created_at", "scheduled_for", "started_at", "paused_at", "completed_at"])
    }
    CallBatch.objects.filter(pk=batch.pk).update(**times, error_message="Somebody said so")

    assert (
        "Created at: 2026-01-02 00:00:00 UTC Scheduled for: 2026-01-02 01:00:00 UTC Started at: 2026-01-02 02:00:00 UTC"
        " Paused at: 2026-01-02 03:00:00 UTC Ended at: 2026-01-02 04:00:00 UTC Reason: Somebody said so"
        in words(admin.get(page_of(batch)))
    )


def test_a_cancelled_batchs_page_says_that_no_new_call_starts(harbour, admin):
    batch = harbour.batch(queued=3, in_progress=2)
    assert "No new call starts" not in words(admin.get(page_of(batch)))
    cancel(batch)

    assert "No new call starts. 2 calls in progress will finish." in words(admin.get(page_of(batch)))


@pytest.mark.parametrize("context", ["[1]", '"x"', '{"actor": "me"}', '{"actor": {"kind": null, "id": 7}}'])
def test_a_page_stands_whatever_another_service_has_told_the_history(harbour, admin, context):
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('pghistory.context_metadata', %s, true)", [context])

    assert "UTC Created" in words(admin.get(page_of(harbour.batch())))


def test_a_page_says_who_cancelled_through_which_door_when_and_how_many(harbour, owner, admin):
    batch = harbour.batch(queued=3)
    owner.post("/functions/v1/calls-batch-cancel", {"batch_id": str(batch.pk)}, format="json")
    when = batch.events.last().pgh_created_at

    assert f"{when:%Y-%m-%d %H:%M:%S} UTC Cancelled agency_owner@harbour.example (agency user) api 3" in words(
        admin.get(page_of(batch))
    )


def test_a_page_does_not_make_up_who_wrote_by_sql(harbour, admin):
    batch = harbour.batch()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE call_batches SET status = 'paused' WHERE id = %s", [batch.pk])

    assert "UTC Paused not known another service, or SQL" in words(admin.get(page_of(batch)))


def test_a_long_history_is_cut_and_says_so(harbour, admin):
    batch = harbour.batch()
    with connection.cursor() as cursor:
        for index in range(HISTORY_SHOWN):
            cursor.execute(
                "UPDATE call_batches SET status = %s WHERE id = %s", [("paused", "processing")[index % 2], batch.pk]
            )

    text = words(admin.get(page_of(batch)))

    assert f"Only the latest {HISTORY_SHOWN} entries are shown." in text
    assert "UTC Created" not in text


def test_djangos_history_leads_to_ours(harbour, admin):
    batch = harbour.batch()

    assert admin.get(f"{BATCHES}{batch.pk}/history/")["Location"] == f"{page_of(batch)}#history"


def test_whoever_may_not_see_contacts_is_not_led_to_them(harbour):
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(staff("narrow", "view_callbatch"))
    batch = harbour.batch(queued=1)

    assert CONTACTS not in client.get(page_of(batch)).content.decode()
    assert client.get(CONTACTS).status_code == 403


def test_a_page_takes_the_same_queries_for_3_contacts_and_for_300(harbour, admin):
    few, many = harbour.batch(queued=3), harbour.batch(queued=300)

    assert len(queries(admin, page_of(few))) == len(queries(admin, page_of(many))) <= 9


# Contacts


def test_contacts_are_listed_by_batch_and_status(harbour, admin):
    batch = harbour.batch(queued=1, pending=1, completed=1)
    harbour.batch(queued=1)
    first, second, third = batch.contacts.order_by("pk").values_list("pk", flat=True)

    assert listed(admin, CONTACTS, batch=str(batch.pk)) == [first, second, third]
    assert listed(admin, CONTACTS, batch=str(batch.pk), status="completed") == [third]
    assert listed(admin, CONTACTS, batch=str(batch.pk), status="left") == [first, second]


@pytest.mark.parametrize("parameters", [{"batch": "nonsense"}, {"status": "exploded"}], ids=str)
def test_contacts_of_nothing_are_none(harbour, admin, parameters):
    batch = harbour.batch(queued=1)

    assert listed(admin, CONTACTS, **{"batch": str(batch.pk)} | parameters) == []


def test_the_status_is_a_filter_within_a_batch_since_no_index_finds_it_among_all(harbour, admin):
    batch = harbour.batch(queued=1)

    assert "By status" not in words(admin.get(CONTACTS))
    assert "By status" in words(admin.get(CONTACTS, {"batch": str(batch.pk)}))


def test_a_contact_is_found_by_its_number(harbour, admin):
    batch = harbour.batch(queued=2)
    contact = batch.contacts.first()
    CampaignContact.objects.filter(pk=contact.pk).update(phone_number="+447700900123")

    assert listed(admin, CONTACTS, q="+44 7700 900123") == [contact.pk]
    assert listed(admin, CONTACTS, q="+44 7700") == []


def test_whoever_looks_for_a_number_sees_whose_batch_it_is_in(harbour, bluebell, admin):
    batch = harbour.batch(queued=1)
    bluebell.batch(queued=1)

    response = admin.get(CONTACTS, {"q": PHONE})

    assert f'<a href="{page_of(batch)}">Harbour: Spring</a>' in response.content.decode()
    assert "Bluebell: Spring" in words(response)


def test_the_contacts_of_a_batch_say_whose_they_are_and_lead_back(harbour, admin):
    batch = harbour.batch(queued=1)

    response = admin.get(CONTACTS, {"batch": str(batch.pk)})

    assert "Contacts of Harbour: Spring The batch" in words(response)
    assert f'<a href="{page_of(batch)}">' in response.content.decode()


def test_no_list_offers_to_show_all_instead_of_what_was_found(harbour, admin):
    batch = harbour.batch(queued=1)

    for address in (BATCHES, CONTACTS):
        assert "Show all" not in words(
            admin.get(address, {"batch": str(batch.pk)} if address == CONTACTS else {"q": "harb"})
        )


@pytest.mark.parametrize(("contacts", "more"), [(3, False), (4, True)])
def test_the_list_of_all_contacts_ends_at_a_limit_and_says_so(harbour, admin, monkeypatch, contacts, more):
    monkeypatch.setattr(BoundedPaginator, "LIMIT", 3)
    batch = harbour.batch(queued=contacts)

    response = admin.get(CONTACTS)

    assert response.context["cl"].result_count == 3
    assert ("Only the first 3 are counted and listed." in words(response)) is more
    assert len(listed(admin, CONTACTS, batch=str(batch.pk))) == contacts


def test_an_empty_batch_in_the_address_is_no_batch(harbour, admin):
    assert "By status" not in words(admin.get(CONTACTS, {"batch": ""}))


def test_no_other_column_finds_a_page(harbour, admin):
    batch = harbour.batch()

    for name in ("", "status", "nonsense"):
        assert admin.get(page_of(batch), {"_to_field": name}).status_code in (200, 400)


def test_a_way_to_a_public_page_there_is_not(admin):
    assert admin.get("/admin/r/1/1/").status_code == 404


# What a browser may load


@pytest.mark.parametrize("address", ["/admin/login/", "/admin/", BATCHES, CONTACTS, "page", "confirmation"])
def test_a_page_needs_no_script_and_no_style_of_its_own(harbour, admin, address):
    batch = harbour.batch(queued=1)
    address = {"page": page_of(batch), "confirmation": f"{BATCHES}cancel/?ids={batch.pk}"}.get(address, address)

    response = admin.get(address)
    policy = dict(directive.split(" ", 1) for directive in response["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=|javascript:", response.content.decode())
