"""The proof for the client: who was called, who was skipped, and why, as a file that no spreadsheet trips over."""

import codecs
import csv
import errno
import io
import os
import subprocess
import sys
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import Client
from django.urls import reverse

from calls.admin.actions import BATCHES_AT_ONCE
from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchReadFailed
from calls.export import COLUMNS, write_csv
from calls.models import CallBatch
from calls.statuses import ContactStatus
from calls.tests.admin.test_cancel import select
from calls.tests.admin.test_pages import BATCHES, page_of
from calls.tests.support.factories import ROOT, cancel, new_contacts, staff
from calls.tests.support.server import database_url

pytestmark = pytest.mark.django_db

UNKNOWN = "01985f2c-7a3e-7c1d-9b54-2f6f0c9d1e99"
FORMULAS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "|cmd", "%0A", "=HYPERLINK(1)", "-2+3+cmd|' /C calc'!A0", "  =1", "\x01=1"),
    *("\uff1d1", "\uff0b1", "\uff0d1", "\uff20x", "\ufeff=1", "\u200b=1", "\tabc", "\rabc", "\nabc"),
]
# What stands in a cell of its own where semicolons, tabs or lines are taken for separators.
INNER = {
    "x;=1+1;y": "x;'=1+1;y",
    "x; @SUM(A1)": "x;' @SUM(A1)",
    "x\t=1": "x\t'=1",
    "x\n-1": "x\n'-1",
    "\t=1": "'\t'=1",
}


def exported(*batches):
    """The lines of the file, as a program reads them."""
    file = io.StringIO(newline="")
    write_csv(batches, file)
    return list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))


def export_address(*batches):
    return f"{reverse('admin:calls_callbatch_export')}?ids={','.join(str(getattr(b, 'pk', b)) for b in batches)}"


def test_it_says_who_was_called_and_who_was_skipped_and_why(harbour):
    batch = harbour.batch(queued=1)
    contact = claim_next_contact(batch)
    batch.add_contacts(new_contacts(1))
    contact.record_answered(outcome="answered", duration_seconds=45)
    cancel(batch)

    called, skipped = exported(batch)

    assert list(called) == COLUMNS
    assert (called["status"], called["outcome"], called["duration_seconds"]) == ("completed", "answered", "45")
    assert called["attempts"] == "1"
    assert called["last_attempt_at"].endswith("+00:00")
    assert (skipped["status"], skipped["outcome_notes"]) == ("skipped", "Batch cancelled")
    assert (skipped["attempts"], skipped["last_attempt_at"], skipped["completed_at"]) == ("0", "", "")
    assert {line["batch_id"] for line in (called, skipped)} == {str(batch.pk)}


def test_contacts_come_oldest_first_one_batch_after_another(harbour):
    first, second = harbour.batch(), harbour.batch()
    first.add_contacts(new_contacts(3))
    second.add_contacts(new_contacts(2))

    assert [line["batch_id"] for line in exported(second, first)] == [str(second.pk)] * 2 + [str(first.pk)] * 3
    assert [line["phone_number"] for line in exported(first)] == [
        f"'{person.phone_number}" for person in new_contacts(3)
    ]


def test_the_oldest_contact_comes_first_whatever_its_id(harbour):
    batch = harbour.batch(queued=1)
    harbour.contact(batch, first_name="older", created_at=batch.created_at - timedelta(days=1)).save()

    assert [line["first_name"] for line in exported(batch)] == ["older", ""]


def test_every_cell_is_quoted_and_a_line_ends_as_spreadsheets_expect(harbour):
    batch = harbour.batch(queued=1)
    file = io.StringIO(newline="")

    write_csv([batch], file)

    heading, line, rest = file.getvalue().split("\r\n")
    assert heading == ",".join(f'"{name}"' for name in COLUMNS)
    assert line.startswith(f'"{batch.pk}","')
    assert rest == ""


def test_another_batchs_contacts_are_not_in_it(harbour, bluebell):
    batch = harbour.batch(queued=2)
    bluebell.batch(queued=5)

    assert len(exported(batch)) == 2


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_made_harmless(harbour, text):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text, company=text, phone_number=text, outcome_notes=text).save()

    (line,) = exported(batch)

    assert {line[name] for name in ("first_name", "company", "phone_number", "outcome_notes")} == {f"'{text}"}


@pytest.mark.parametrize(("text", "harmless"), INNER.items())
def test_it_is_made_harmless_too_where_it_begins_a_cell_for_another_separator(harbour, text, harmless):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text).save()

    assert exported(batch)[0]["first_name"] == harmless


@pytest.mark.parametrize("text", ["O'Brien", 'a "b", c;\nd', "Zo\u00eb \U0001f469", "1=1", "", "'=1"])
def test_any_other_text_comes_as_it_is(harbour, text):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text).save()

    assert exported(batch)[0]["first_name"] == text


@pytest.mark.parametrize("text", ["\n", ";", " ;"])
def test_a_million_of_them_keep_nobody_waiting(harbour, text):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text * 1_000_000).save()

    file = io.StringIO(newline="")
    # Looked at again from each of them, it would take an hour.
    write_csv([batch], file)

    assert text * 1_000_000 in file.getvalue()


def test_it_needs_no_more_memory_for_more_contacts(harbour):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(20_000))

    class Nowhere:
        def write(self, text):
            pass

    tracemalloc.start()
    write_csv([batch], Nowhere())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # The 20,000 rows alone would be some 40 MB.
    assert peak < 8 * 1024 * 1024


# The admin


def content(response):
    assert response.status_code == 200, response
    assert response.streaming
    raw = b"".join(response.streaming_content)
    assert raw.startswith(codecs.BOM_UTF8 + b'"batch_id","id"')
    assert raw.endswith(b"\r\n")
    return raw.decode("utf-8-sig")


def test_the_action_leads_to_the_file(harbour, bluebell, admin):
    batches = [harbour.batch(queued=2), bluebell.batch(queued=1)]

    response = select(admin, *batches, action="export_selected")
    file = admin.get(response["Location"])

    assert file["Content-Type"] == "text/csv; charset=utf-8"
    assert file["Content-Disposition"] == 'attachment; filename="2-batches.csv"'
    assert len(list(csv.DictReader(io.StringIO(content(file))))) == 3


def test_a_batchs_page_leads_to_its_file(harbour, admin):
    batch = harbour.batch(queued=2)

    assert export_address(batch) in admin.get(page_of(batch)).content.decode()
    file = admin.get(export_address(batch))

    assert file["Content-Disposition"] == f'attachment; filename="batch-{batch.pk}.csv"'
    assert len(content(file).splitlines()) == 3


@pytest.mark.parametrize("permissions", [["view_callbatch"], ["view_campaigncontact"], ["cancel_callbatch"]], ids=str)
def test_whoever_may_not_look_at_contacts_gets_no_file(harbour, permissions):
    batch = harbour.batch(queued=2)
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(staff("somebody", *permissions))

    assert client.get(export_address(batch)).status_code == 403
    assert "as a CSV file" not in client.get(page_of(batch)).content.decode()
    assert "export_selected" not in client.get(BATCHES).content.decode()


def test_with_one_batch_unknown_there_is_no_file_of_the_others(harbour, admin):
    assert admin.get(export_address(harbour.batch(queued=1), UNKNOWN)).status_code == 302


def test_of_more_batches_than_a_page_there_is_no_file(harbour, admin):
    batches = [harbour.batch() for _ in range(BATCHES_AT_ONCE + 1)]

    assert admin.get(export_address(*batches)).status_code == 302
    assert len(content(admin.get(export_address(*batches[1:]))).splitlines()) == 1


def test_without_room_for_the_file_it_says_so(harbour, admin, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("calls.admin.batches.tempfile.TemporaryFile", full)

    response = admin.get(export_address(harbour.batch(queued=2)))

    (message,) = admin.get(response["Location"]).context["messages"]
    assert message.message == "The server has no room for the file."


@pytest.mark.parametrize("ids", ["", "nonsense", UNKNOWN, ",".join([UNKNOWN] * 2), f"{UNKNOWN},nonsense"])
def test_for_what_is_no_batch_there_is_no_file(harbour, admin, ids):
    response = admin.get(export_address(ids))

    assert response.status_code == 302
    (message,) = admin.get(response["Location"]).context["messages"]
    assert message.message == "Batch not found."


def test_what_cannot_be_read_to_the_end_makes_no_half_a_file(harbour, admin, monkeypatch):
    batch = harbour.batch(queued=2)

    def breaks(batches, file):
        file.write("half")
        raise BatchReadFailed

    monkeypatch.setattr("calls.admin.batches.write_csv", breaks)

    response = admin.get(export_address(batch))

    assert response.status_code == 302
    (message,) = admin.get(response["Location"]).context["messages"]
    assert message.message == "Failed to read batches. Try again: that is safe."


def test_a_database_that_fails_in_the_midst_is_told(harbour, monkeypatch):
    batch = harbour.batch(queued=2)

    def fails(execute, sql, params, many, context):
        if "campaign_contacts" in sql:
            raise OperationalError
        return execute(sql, params, many, context)

    monkeypatch.setattr(connection, "chunked_cursor", connection.cursor)
    with connection.execute_wrapper(fails), pytest.raises(BatchReadFailed):
        write_csv([batch], io.StringIO())


# The command


def test_the_command_writes_it_to_the_terminal(harbour, capsys):
    batch = harbour.batch(queued=2)

    call_command("export_batch", str(batch.pk))

    assert [line["status"] for line in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["queued"] * 2


def test_the_command_finds_only_a_batch_of_the_agency_that_is_named(harbour, bluebell, capsys):
    batch = harbour.batch(queued=2)

    with pytest.raises(CommandError, match=r"not exported: Batch not found \(batch_not_found\)"):
        call_command("export_batch", str(batch.pk), "--agency", "bluebell")
    assert capsys.readouterr().out == ""
    call_command("export_batch", str(batch.pk), "--agency", "harbour")
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_malformed_id_is_bad_usage():
    with pytest.raises(CommandError) as refusal:
        call_command("export_batch", "nonsense")
    assert refusal.value.returncode != 0


def test_statuses_are_as_they_are_in_the_database(harbour):
    batch = harbour.batch(**dict.fromkeys(ContactStatus, 1))

    assert sorted(line["status"] for line in exported(batch)) == sorted(ContactStatus)
    assert CallBatch.objects.count() == 1


@pytest.fixture
def export(db):
    """Run the command as a program, into what a shell would redirect it to: its exit status and its complaints."""

    def export(batch, stdout):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        environment |= {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "agency_backend.settings"}
        command = [sys.executable, "manage.py", "export_batch", str(batch.pk)]
        process = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
        )
        return process.returncode, process.stderr

    return export


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("size", [0, 30, 5000])
def test_a_full_disk_is_told(harbour, export, size):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(size))

    with Path("/dev/full").open("w") as full:
        status, said = export(batch, full)

    assert status == 1
    assert f"CommandError: {batch.pk}: not all could be written: No space left on device" in said
    assert "Traceback" not in said
    assert "Exception" not in said


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("size", [0, 5000])
def test_a_reader_who_has_seen_enough_is_no_error(harbour, export, size):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(size))
    reading, writing = os.pipe()
    os.close(reading)

    status, said = export(batch, writing)
    os.close(writing)

    assert (status, said) == (1, "")


@pytest.mark.django_db(transaction=True)
def test_what_the_terminal_cannot_write_is_told(harbour, export, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    batch = harbour.batch()
    harbour.contact(batch, first_name="\u660e").save()

    status, said = export(batch, subprocess.DEVNULL)

    assert status == 1
    assert "set PYTHONIOENCODING=utf-8" in said
    assert "Traceback" not in said
