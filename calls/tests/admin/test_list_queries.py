"""The number of queries of the admin's lists, and the indexes that answer them."""

import pytest
from django.db import connection

from calls.admin.base import BoundedPaginator
from calls.admin.selection import BATCHES_AT_ONCE
from calls.tests.support.admin_pages import BATCHES, CONTACTS, page_of, queries
from calls.tests.support.factories import PHONE

pytestmark = pytest.mark.django_db


def explain(client, address, **parameters):
    """Return the plan of a list's query, for tables that are too large for a sequential scan."""
    queryset = client.get(address, parameters).context["cl"].queryset
    with connection.cursor() as cursor:
        # Remove the rows and statistics that earlier tests left.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("TRUNCATE call_batches, campaign_contacts CASCADE")
        cursor.execute(
            "DELETE FROM pg_statistic WHERE starelid IN ('call_batches'::regclass, 'campaign_contacts'::regclass)"
        )
        cursor.execute("SET LOCAL enable_seqscan = off")
    return queryset[:50].explain()


@pytest.mark.parametrize("parameters", [{}, {"status": "processing", "agency": "harbour"}, {"q": PHONE}], ids=str)
def test_the_list_takes_the_same_queries_for_3_batches_and_for_a_full_page(harbour, admin, parameters):
    for _ in range(3):
        harbour.batch(queued=1)
    few = queries(admin, BATCHES, **parameters)
    for _ in range(BATCHES_AT_ONCE):
        harbour.batch(queued=1)

    many = queries(admin, BATCHES, **parameters)

    assert len(many) == len(few) <= 11


@pytest.mark.parametrize("parameters", [{}, {"_facets": "1"}, {"all": ""}, {"o": "3"}], ids=str)
def test_contacts_are_counted_up_to_a_limit_and_sorted_only_by_an_index(harbour, admin, parameters):
    harbour.batch(queued=3)

    counts = [sql for sql in queries(admin, CONTACTS, **parameters) if "COUNT" in sql]
    lists = [sql for sql in queries(admin, CONTACTS, **parameters) if '"campaign_contacts"."first_name"' in sql]

    assert len(counts) == len(lists) == 1
    assert f"LIMIT {BoundedPaginator.LIMIT + 1}" in counts[0]
    assert lists[0].endswith('ORDER BY "campaign_contacts"."id" ASC')


def test_the_list_of_batches_reads_contacts_only_for_what_its_batches_wait_for(harbour, admin):
    harbour.batch(queued=3)

    (rows,) = [sql for sql in queries(admin, BATCHES, _facets="1", all="") if "campaign_contacts" in sql]
    assert '"state_next_status"' in rows


@pytest.mark.not_adopted
@pytest.mark.parametrize(
    ("index", "address", "parameters"),
    [
        ("batch_by_creation", BATCHES, {}),
        ("batch_to_dial", BATCHES, {"status": "processing", "agency": "harbour"}),
        ("batch_of_agency", BATCHES, {"status": "cancelled", "agency": "harbour"}),
        ("contact_by_phone_number", BATCHES, {"q": PHONE}),
        ("contact_by_phone_number", CONTACTS, {"q": PHONE}),
        ("contact_by_phone_number", CONTACTS, {"q": "'+44 (0)7700 900321"}),
        ("contact_in_order", CONTACTS, {"batch": "{pk}", "status": "left"}),
        ("campaign_contacts_pkey", CONTACTS, {}),
    ],
    ids=str,
)
def test_an_index_answers_each_list(harbour, admin, index, address, parameters):
    batch = harbour.batch(queued=3)

    assert index in explain(admin, address, **{key: value.format(pk=batch.pk) for key, value in parameters.items()})


def test_a_batchs_page_takes_the_same_queries_for_3_contacts_and_for_300(harbour, admin):
    few, many = harbour.batch(queued=3), harbour.batch(queued=300)

    assert len(queries(admin, page_of(few))) == len(queries(admin, page_of(many))) <= 9
