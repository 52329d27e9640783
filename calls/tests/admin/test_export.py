"""The CSV export of a batch's contacts: its content, the admin's download and the command."""

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
from django.urls import reverse

from calls.admin.selection import BATCHES_AT_ONCE
from calls.dialler.claims import claim_next_contact
from calls.exceptions import BatchReadFailed
from calls.export import COLUMNS, write_csv
from calls.models import CallBatch
from calls.statuses import ContactStatus
from calls.tests.support.admin_pages import BATCHES, UNKNOWN_ID, messages_at, page_of, select, signed_in
from calls.tests.support.exports import exported
from calls.tests.support.factories import ROOT, cancel, new_contacts, staff
from calls.tests.support.server import database_url

pytestmark = pytest.mark.django_db


def export_address(*batches):
    return f"{reverse('admin:calls_callbatch_export')}?ids={','.join(str(getattr(b, 'pk', b)) for b in batches)}"


@pytest.mark.django_db(transaction=True)
def test_the_export_shows_which_contacts_were_called_or_skipped_and_why(harbour):
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


def test_batches_come_in_the_given_order_with_the_oldest_contact_first(harbour):
    first, second = harbour.batch(), harbour.batch()
    first.add_contacts(new_contacts(3))
    second.add_contacts(new_contacts(2))

    assert [line["batch_id"] for line in exported(second, first)] == [str(second.pk)] * 2 + [str(first.pk)] * 3
    assert [line["phone_number"] for line in exported(first)] == [contact.phone_number for contact in new_contacts(3)]


def test_contacts_are_ordered_by_creation_time_and_not_by_id(harbour):
    batch = harbour.batch(queued=1)
    harbour.contact(batch, first_name="older", created_at=batch.created_at - timedelta(days=1)).save()

    assert [line["first_name"] for line in exported(batch)] == ["older", ""]


def test_every_cell_is_quoted_and_rows_end_with_crlf(harbour):
    batch = harbour.batch(queued=1)
    file = io.StringIO(newline="")

    write_csv([batch], file)

    header, row, rest = file.getvalue().split("\r\n")
    assert header == ",".join(f'"{name}"' for name in COLUMNS)
    assert row.startswith(f'"{batch.pk}","')
    assert rest == ""


def test_the_export_has_no_contacts_of_other_batches(harbour, bluebell):
    batch = harbour.batch(queued=2)
    bluebell.batch(queued=5)

    assert len(exported(batch)) == 2


def test_the_export_does_not_keep_all_contacts_in_memory(harbour):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(20_000))

    class NullFile:
        def write(self, text):
            pass

    tracemalloc.start()
    write_csv([batch], NullFile())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # All 20,000 rows would take about 40 MB.
    assert peak < 8 * 1024 * 1024


# The admin


def content(response):
    assert response.status_code == 200, response
    assert response.streaming
    raw = b"".join(response.streaming_content)
    assert raw.startswith(codecs.BOM_UTF8 + b'"batch_id","id"')
    assert raw.endswith(b"\r\n")
    return raw.decode("utf-8-sig")


def test_the_action_downloads_the_file(harbour, bluebell, admin):
    batches = [harbour.batch(queued=2), bluebell.batch(queued=1)]

    response = select(admin, *batches, action="export_selected")
    file = admin.get(response["Location"])

    assert file["Content-Type"] == "text/csv; charset=utf-8"
    assert file["Content-Disposition"] == 'attachment; filename="2-batches.csv"'
    assert len(list(csv.DictReader(io.StringIO(content(file))))) == 3


def test_a_batchs_page_links_to_its_file(harbour, admin):
    batch = harbour.batch(queued=2)

    assert export_address(batch) in admin.get(page_of(batch)).content.decode()
    file = admin.get(export_address(batch))

    assert file["Content-Disposition"] == f'attachment; filename="batch-{batch.pk}.csv"'
    assert len(content(file).splitlines()) == 3


@pytest.mark.parametrize("permissions", [["view_callbatch"], ["view_campaigncontact"], ["cancel_callbatch"]], ids=str)
def test_the_export_needs_permission_to_view_batches_and_contacts(harbour, permissions):
    batch = harbour.batch(queued=2)
    client = signed_in(staff("employee", *permissions))

    assert client.get(export_address(batch)).status_code == 403
    assert "as a CSV file" not in client.get(page_of(batch)).content.decode()
    assert "export_selected" not in client.get(BATCHES).content.decode()


def test_one_unknown_batch_prevents_the_export_of_the_others(harbour, admin):
    assert admin.get(export_address(harbour.batch(queued=1), UNKNOWN_ID)).status_code == 302


def test_no_batch_and_more_batches_than_a_page_holds_are_refused(harbour, admin):
    batches = [harbour.batch() for _ in range(BATCHES_AT_ONCE + 1)]

    for refused in (export_address(*batches), export_address()):
        assert messages_at(admin, admin.get(refused)["Location"]) == [
            ("error", f"Select 1 to {BATCHES_AT_ONCE} batches to export.")
        ]
    assert len(content(admin.get(export_address(*batches[1:]))).splitlines()) == 1


def test_a_full_disk_on_the_server_is_reported(harbour, admin, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("calls.admin.batches.tempfile.TemporaryFile", full)

    response = admin.get(export_address(harbour.batch(queued=2)))

    (message,) = admin.get(response["Location"]).context["messages"]
    assert message.message == "The server has no space for the file."


@pytest.mark.parametrize("ids", ["nonsense", UNKNOWN_ID, f"{UNKNOWN_ID}, nonsense"])
def test_unknown_and_malformed_ids_are_reported(harbour, admin, ids):
    response = admin.get(export_address(ids.replace(" ", "")))

    assert messages_at(admin, response["Location"]) == [("error", f"Nothing was exported. Batch not found: {ids}.")]


def test_a_database_error_sends_no_partial_file(harbour, admin, monkeypatch):
    batch = harbour.batch(queued=2)

    def fail(batches, file):
        file.write("partial")
        raise BatchReadFailed

    monkeypatch.setattr("calls.admin.batches.write_csv", fail)

    response = admin.get(export_address(batch))

    assert response.status_code == 302
    (message,) = admin.get(response["Location"]).context["messages"]
    assert message.message == "Failed to read batches. It is safe to try again."


def test_a_database_error_while_reading_contacts_is_translated(harbour, monkeypatch):
    batch = harbour.batch(queued=2)

    def fail(execute, sql, params, many, context):
        if "campaign_contacts" in sql:
            raise OperationalError
        return execute(sql, params, many, context)

    monkeypatch.setattr(connection, "chunked_cursor", connection.cursor)
    with connection.execute_wrapper(fail), pytest.raises(BatchReadFailed):
        write_csv([batch], io.StringIO())


# The command


def test_the_command_writes_to_standard_output(harbour, capsys):
    batch = harbour.batch(queued=2)

    call_command("export_batch", str(batch.pk))

    assert [line["status"] for line in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["queued"] * 2


def test_the_command_finds_only_batches_of_the_given_agency(harbour, bluebell, capsys):
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


def test_statuses_are_exported_as_they_are_stored(harbour):
    batch = harbour.batch(**dict.fromkeys(ContactStatus, 1))

    assert sorted(line["status"] for line in exported(batch)) == sorted(ContactStatus)
    assert CallBatch.objects.count() == 1


@pytest.fixture
def export(db):
    """Run the command as a program with standard output redirected, and return its exit status and standard error."""

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
def test_the_command_reports_a_full_disk(harbour, export, size):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(size))

    with Path("/dev/full").open("w") as full:
        status, stderr = export(batch, full)

    assert status == 1
    assert f"CommandError: {batch.pk}: the file is incomplete: No space left on device" in stderr
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("size", [0, 5000])
def test_a_closed_pipe_prints_no_error(harbour, export, size):
    batch = harbour.batch()
    batch.add_contacts(new_contacts(size))
    reading, writing = os.pipe()
    os.close(reading)

    status, stderr = export(batch, writing)
    os.close(writing)

    assert (status, stderr) == (1, "")


@pytest.mark.django_db(transaction=True)
def test_the_command_reports_an_encoding_error(harbour, export, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    batch = harbour.batch()
    harbour.contact(batch, first_name="\u660e").save()

    status, stderr = export(batch, subprocess.DEVNULL)

    assert status == 1
    assert "set PYTHONIOENCODING=utf-8" in stderr
    assert "Traceback" not in stderr
