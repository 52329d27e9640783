"""The list of batches: content, order, filters and search."""

import re
from datetime import UTC, datetime

import pytest

from calls.models import Agency, CallBatch, Campaign
from calls.statuses import BatchStatus
from calls.tests.support.admin_pages import (
    BATCHES,
    CONTACTS,
    UNKNOWN_ID,
    listed_ids,
    text_of,
)
from calls.tests.support.factories import PHONE

pytestmark = pytest.mark.django_db


def test_the_list_shows_each_batchs_progress_in_words_and_as_a_bar(harbour, admin):
    harbour.batch(completed=2, in_progress=1, queued=1)

    response = admin.get(BATCHES)

    assert "Harbour Spring Processing 2 completed 1 in progress 1 left 4 in all 0 minutes" in text_of(response)
    bar = response.content.decode().split('<svg class="bar"')[1].split("</svg>")[0]
    assert re.findall(r'class="(\w+)"><rect x="([\d.]+)%" width="([\d.]+)%"', bar) == [
        ("completed", "0.000", "50.000"),
        ("in_progress", "50.000", "25.000"),
        ("queued", "75.000", "25.000"),
    ]


def test_the_list_shows_why_a_batch_was_paused(harbour, admin):
    paused, processing = harbour.batch(BatchStatus.PAUSED), harbour.batch()
    CallBatch.objects.filter(pk=paused.pk).update(error_message="Paused by the dialler: HTTP 402: No credit.")
    CallBatch.objects.filter(pk=processing.pk).update(error_message="An old text")

    text = text_of(admin.get(BATCHES))

    assert "Harbour Spring Paused Paused by the dialler: HTTP 402: No credit. 0 in all" in text
    assert "Harbour Spring Processing 0 in all" in text
    # By the status, in the order of its enum where the column has one.
    by_status = listed_ids(admin, BATCHES, o="4")
    assert set(by_status) == {paused.pk, processing.pk}
    assert listed_ids(admin, BATCHES, o="-4") == by_status[::-1]


def test_an_empty_batch_shows_0_contacts(harbour, admin):
    harbour.batch()

    assert "Processing 0 in all" in text_of(admin.get(BATCHES))


def test_counters_below_zero_are_shown_as_zero(harbour, admin):
    CallBatch.objects.filter(pk=harbour.batch().pk).update(queued=-3, completed=2)

    response = admin.get(BATCHES)

    assert '"completed"><rect x="0.000%" width="100.000%"' in response.content.decode()
    assert "Processing 2 completed 0 in all" in text_of(response)


def test_the_newest_batch_is_first(harbour, admin):
    first, second, third = (harbour.batch() for _ in range(3))
    first.save()

    assert listed_ids(admin, BATCHES) == [third.pk, second.pk, first.pk]
    assert listed_ids(admin, BATCHES, o="6") == [third.pk, second.pk, first.pk]


def test_it_filters_by_status(harbour, admin):
    paused = harbour.batch(BatchStatus.PAUSED)
    harbour.batch()

    assert listed_ids(admin, BATCHES, status="paused") == [paused.pk]


def test_it_filters_by_agency(harbour, bluebell, admin):
    batch = harbour.batch()
    bluebell.batch()

    assert listed_ids(admin, BATCHES, agency="harbour") == [batch.pk]


def test_it_drills_down_by_date(harbour, admin):
    batch, other = harbour.batch(), harbour.batch()
    CallBatch.objects.filter(pk=other.pk).update(created_at=datetime(2020, 5, 17, tzinfo=UTC))

    assert listed_ids(admin, BATCHES, created_at__year="2020", created_at__month="5", created_at__day="17") == [
        other.pk
    ]
    assert listed_ids(admin, BATCHES, created_at__year=str(batch.created_at.year)) == [batch.pk]


@pytest.mark.parametrize("parameters", [{"status": "exploded"}, {"agency": "unknown"}, {"agency": "\0"}], ids=str)
def test_a_filter_value_that_is_not_offered_finds_nothing(harbour, admin, parameters):
    harbour.batch()

    assert listed_ids(admin, BATCHES, **parameters) == []


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
def test_a_filter_that_is_not_offered_redirects_to_the_list(harbour, admin, parameter):
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
        "'+12125550100",
        "+1.212.555.0100",
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

    assert listed_ids(admin, BATCHES, q=term.format(pk=batch.pk, PK=str(batch.pk).upper())) == [batch.pk]


def test_it_searches_by_caller_id(harbour, admin):
    batch = harbour.batch()

    assert listed_ids(admin, BATCHES, q="+12125550199") == [batch.pk]


@pytest.mark.parametrize("term", ["nothing like it", UNKNOWN_ID, "2125550100", "%", "x" * 2000])
def test_a_search_for_anything_else_finds_nothing(harbour, admin, term):
    harbour.batch(queued=1)

    assert listed_ids(admin, BATCHES, q=term) == []


@pytest.mark.parametrize("number", ["2125550100", "(212) 555-0100", "+1 212 555 0177"])
@pytest.mark.parametrize("address", [BATCHES, CONTACTS])
def test_a_search_for_an_unknown_number_asks_for_the_whole_number(harbour, admin, address, number):
    harbour.batch(queued=1)

    assert "enter all of it with the country code" in text_of(admin.get(address, {"q": number}))


def test_other_searches_do_not_ask_for_a_whole_number(harbour, admin):
    harbour.batch(queued=1)

    for term in (PHONE, "nothing like it", ""):
        assert "country code:" not in text_of(admin.get(BATCHES, {"q": term}))


def test_no_list_offers_to_show_all_rows(harbour, admin):
    batch = harbour.batch(queued=1)

    for address in (BATCHES, CONTACTS):
        assert "Show all" not in text_of(
            admin.get(address, {"batch": str(batch.pk)} if address == CONTACTS else {"q": "harb"})
        )
