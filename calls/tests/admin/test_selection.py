"""An action takes exactly the batches that were ticked in the list, whatever the list would show now."""

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext

from calls.admin.selection import BATCHES_AT_ONCE
from calls.models import Agency, CallBatch
from calls.statuses import BatchStatus, ContactStatus
from calls.tests.support.admin_pages import (
    BATCHES,
    UNKNOWN_ID,
    hidden_fields,
    listed_ids,
    messages_at,
    select,
    signed_in,
    text_of,
)
from calls.tests.support.factories import PHONE, count, staff

pytestmark = pytest.mark.django_db


def change_status(*batches, status=BatchStatus.PROCESSING):
    """Change the status behind the operator's back, as the dialler does."""
    CallBatch.objects.filter(pk__in=[batch.pk for batch in batches]).update(status=status)


def test_a_batch_that_the_dialler_started_meanwhile_is_offered_and_cancelled(harbour, admin):
    batch = harbour.batch(BatchStatus.PENDING, pending=3)
    address = f"{BATCHES}?status=pending"
    assert listed_ids(admin, address) == [batch.pk]
    change_status(batch)

    page = admin.get(select(admin, batch, address=address)["Location"])
    assert "Skip 3 contacts in 1 batch" in text_of(page)
    admin.post(page.wsgi_request.get_full_path(), hidden_fields(page))

    assert count(batch, ContactStatus.SKIPPED) == 3


@pytest.mark.parametrize(
    "query",
    ["status=pending", "agency=bluebell", "q=nothing", f"q={PHONE[:-1]}7", "created_at__year=2020", "p=99", "e=1"],
)
@pytest.mark.parametrize(
    ("action", "status", "shown"),
    [
        ("cancel_selected", BatchStatus.PROCESSING, "Cancel 2 batches?"),
        ("pause_selected", BatchStatus.PROCESSING, "Pause 2 batches?"),
        ("resume_selected", BatchStatus.PAUSED, "Resume 2 batches?"),
    ],
)
def test_no_filter_search_date_or_page_removes_a_ticked_batch(harbour, admin, query, action, status, shown):
    batches = [harbour.batch(status, queued=1) for _ in range(2)]

    page = admin.get(select(admin, *batches, address=f"{BATCHES}?{query}", action=action)["Location"])

    assert shown in text_of(page)
    assert all(str(batch.pk) in text_of(page) for batch in batches)


def test_a_filter_that_is_not_offered_does_not_remove_a_ticked_batch(harbour, admin):
    batch = harbour.batch(queued=1)

    response = select(admin, batch, address=f"{BATCHES}?queued__gte=1")

    assert "Cancel 1 batch?" in text_of(admin.get(response["Location"]))


def test_the_export_takes_the_ticked_batches_whatever_the_filter_finds(harbour, admin):
    batches = [harbour.batch(queued=1), harbour.batch(queued=2)]

    response = select(admin, *batches, address=f"{BATCHES}?status=pending", action="export_selected")
    rows = b"".join(admin.get(response["Location"]).streaming_content).splitlines()

    assert len(rows) == 1 + 3


def test_of_two_ticked_batches_the_page_names_the_one_that_was_deleted_and_why(harbour, admin):
    batch, deleted = harbour.batch(queued=1), harbour.batch()
    selected = [batch, CallBatch(pk=deleted.pk)]
    deleted.delete()

    text = text_of(admin.get(select(admin, *selected)["Location"]))

    assert "Cancel 1 batch?" in text
    assert f"{selected[1].pk} Batch not found." in text.split("Cannot be cancelled")[1]


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
@pytest.mark.parametrize("pk", [UNKNOWN_ID, "nonsense", "9" * 40, "a\nb", "<script>"])
def test_an_unknown_or_malformed_id_stands_on_the_page_with_its_reason(harbour, admin, verb, pk):
    response = select(admin, CallBatch(pk=pk), action=f"{verb}_selected")

    page = admin.get(response["Location"])

    assert f"Nothing to {verb}" in text_of(page)
    ((shown, batch, why),) = page.context["refusals"]
    assert (shown, batch, why) == (pk, None, "Batch not found.")


def test_the_export_names_each_ticked_batch_that_it_does_not_find_and_exports_nothing(harbour, admin):
    response = select(
        admin, harbour.batch(queued=1), CallBatch(pk=UNKNOWN_ID), CallBatch(pk="nonsense"), action="export_selected"
    )

    response = admin.get(response["Location"])

    assert messages_at(admin, response["Location"]) == [
        ("error", f"Nothing was exported. Batch not found: {UNKNOWN_ID}, nonsense.")
    ]


def test_nothing_ticked_and_no_action_chosen_get_djangos_messages(harbour, admin):
    batch = harbour.batch(queued=1)

    for data, message in (
        ({"action": "cancel_selected"}, "Items must be selected in order to perform actions on them."),
        ({"action": "", "_selected_action": [str(batch.pk)]}, "No action selected."),
    ):
        response = admin.post(BATCHES, data | {"index": "0"})

        ((level, text),) = messages_at(admin, response["Location"])
        assert level == "warning"
        assert text.startswith(message)


@pytest.mark.parametrize("ticked", [[""], [" ", ","], ["\0"]], ids=repr)
def test_a_selection_without_an_id_is_refused_with_a_message(harbour, admin, ticked):
    response = admin.post(BATCHES, {"action": "cancel_selected", "_selected_action": ticked, "index": "0"})

    response = admin.get(response["Location"])
    assert messages_at(admin, response["Location"]) == [("error", f"Select 1 to {BATCHES_AT_ONCE} batches to cancel.")]


@pytest.mark.parametrize("permissions", [[], ["pause_callbatch"]], ids=str)
def test_an_operator_who_has_lost_the_permission_is_told_that_nothing_was_changed(harbour, permissions):
    user = staff("employee", "view_callbatch", "cancel_callbatch", *permissions)
    client, batch = signed_in(user), harbour.batch(queued=1)
    assert "cancel_selected" in client.get(BATCHES).content.decode()
    user.user_permissions.remove(Permission.objects.get(codename="cancel_callbatch"))

    response = select(client, batch, address=f"{BATCHES}?status=processing")

    assert response["Location"] == f"{BATCHES}?status=processing"
    assert messages_at(client, response["Location"]) == [
        ("error", "You may not do this, or this action does not exist. Nothing was changed.")
    ]


def test_ticking_needs_the_permission_to_view_batches(harbour):
    client = signed_in(staff("employee", "cancel_callbatch"))

    assert select(client, harbour.batch(queued=1)).status_code == 403


# "Select all … matching": there the filter is the choice.


def select_all(client, address, *ticked):
    return client.post(
        address,
        {
            "action": "cancel_selected",
            "_selected_action": [str(batch.pk) for batch in ticked],
            "select_across": "1",
            "index": "0",
        },
    )


def test_all_that_match_are_those_that_the_filter_finds_now(harbour, admin):
    pending, started = (harbour.batch(BatchStatus.PENDING, pending=1) for _ in range(2))
    change_status(started)

    page = admin.get(select_all(admin, f"{BATCHES}?status=pending", pending, started)["Location"])

    assert "Cancel 1 batch?" in text_of(page)
    assert str(pending.pk) in text_of(page)
    assert str(started.pk) not in text_of(page)


def test_a_message_says_that_none_matches_any_more(harbour, admin):
    batch = harbour.batch(BatchStatus.PENDING, pending=1)
    change_status(batch)

    response = select_all(admin, f"{BATCHES}?status=pending", batch)

    assert messages_at(admin, response["Location"]) == [
        ("error", "No batch matches the filters any more. Nothing was changed.")
    ]


def test_all_that_match_are_found_from_a_page_that_no_longer_exists(harbour, admin):
    batch = harbour.batch(queued=1)

    page = admin.get(select_all(admin, f"{BATCHES}?status=processing&p=7", batch)["Location"])

    assert "Cancel 1 batch?" in text_of(page)


def test_a_filter_that_is_not_offered_selects_nothing_and_says_so(harbour, admin):
    batch = harbour.batch(queued=1)

    response = select_all(admin, f"{BATCHES}?queued__gte=1", batch)

    assert messages_at(admin, response["Location"]) == [
        ("error", "The filter is not valid, so the list shows everything. Nothing was changed.")
    ]


def test_a_page_that_no_longer_exists_shows_the_first_page_with_the_same_filter(harbour, bluebell, admin):
    for _ in range(BATCHES_AT_ONCE + 1):
        harbour.batch()
    bluebell.batch()

    listed = listed_ids(admin, BATCHES, agency="harbour", p="3")

    assert len(listed) == BATCHES_AT_ONCE
    assert set(listed) <= set(CallBatch.objects.filter(agency=harbour.agency).values_list("pk", flat=True))


# Queries


@pytest.mark.parametrize("query", ["", "status=pending&q=harb"])
def test_ticking_takes_the_same_queries_for_3_batches_for_a_page_and_for_300(harbour, admin, query):
    batches = [harbour.batch(queued=1) for _ in range(BATCHES_AT_ONCE)]
    unknown = [CallBatch() for _ in range(300)]
    select(admin, *batches)

    def queries_for(ticked):
        with CaptureQueriesContext(connection) as captured:
            assert select(admin, *ticked, address=f"{BATCHES}?{query}").status_code == 302
        return [query["sql"] for query in captured if "SAVEPOINT" not in query["sql"]]

    counts = [len(queries_for(ticked)) for ticked in (batches[:3], batches, unknown)]

    assert Agency.objects.count() == 1
    assert counts == [counts[0]] * 3
    assert counts[0] <= 4


def test_300_ticked_batches_are_refused_with_a_message(harbour, admin):
    response = select(admin, *(CallBatch() for _ in range(300)))

    assert messages_at(admin, response["Location"]) == [
        ("error", f"Select at most {BATCHES_AT_ONCE} batches at a time.")
    ]
