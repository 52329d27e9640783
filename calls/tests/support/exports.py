"""The CSV export of batches, as it is written and as programs read it."""

import csv
import io

from calls.export import write_csv

DELIMITERS = ",;\t|"


def written(*batches):
    """Return the text of the exported file."""
    file = io.StringIO(newline="")
    write_csv(batches, file)
    return file.getvalue()


def exported(*batches):
    """Return the rows of the exported file as dicts."""
    return list(csv.DictReader(io.StringIO(written(*batches), newline="")))


def cells(text):
    """Return every cell that a program could read from the file, whatever separates its cells and quotes mean to it."""
    found = set()
    for delimiter in DELIMITERS:
        for options in ({}, {"skipinitialspace": True}, {"quoting": csv.QUOTE_NONE}):
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **options):
                found.update(row)
        for line in text.splitlines():
            found.update(line.replace('"', "").split(delimiter))
    return found
