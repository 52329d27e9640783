"""No cell of the CSV export is a formula, for any reader; phone numbers are exported as they are."""

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from calls import export
from calls.parsing import E164
from calls.tests.support.exports import cells, exported, written
from calls.tests.support.factories import PHONE

pytestmark = [pytest.mark.django_db, pytest.mark.not_adopted]

FORMULAS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "|cmd", "%0A", "=HYPERLINK(1)", "-2+3+cmd|' /C calc'!A0", "  =1", "\x01=1"),
    *("\uff1d1", "\uff0b1", "\uff0d1", "\uff20x", "\ufeff=1", "\u200b=1", "\tabc", "\rabc", "\nabc", '"=1', "+0123456"),
]
# A reader that splits at another separator, or that ignores quotes, finds a formula in the middle of these.
INNER_FORMULAS = {
    "x;=1+1;y": "x;'=1+1;y",
    "x; @SUM(A1)": "x;' @SUM(A1)",
    'a;"=1+1;b': "a;'\"=1+1;b",
    "a,-1": "a,'-1",
    "a|+12125550123": "a|'+12125550123",
    "x\t=1": "x\t'=1",
    "x\n-1": "x\n'-1",
    "x\u2028=1": "x\u2028'=1",
    "x;;=1": "x;;'=1",
    "x;\tabc": "x;'\tabc",
    "\t=1": "'\t'=1",
}
# Text columns that other services may fill with anything.
COLUMNS = ["phone_number", "first_name", "company", "email", "outcome", "outcome_notes"]
TEXTS = st.one_of(
    st.text(st.sampled_from("=+-@|%,;\"'\t\r\n \x01\x0b\x85\u200b\u2028\uff1d\uff0b\uff0d\uff20a1"), max_size=8),
    st.just(PHONE),
)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe(harbour, text):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text, company=text, phone_number=text, outcome_notes=text).save()

    (line,) = exported(batch)

    assert {line[name] for name in ("first_name", "company", "phone_number", "outcome_notes")} == {f"'{text}"}


@pytest.mark.parametrize(("text", "escaped"), INNER_FORMULAS.items())
def test_a_formula_after_a_separator_gets_an_apostrophe(harbour, text, escaped):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text).save()

    assert exported(batch)[0]["first_name"] == escaped


@pytest.mark.parametrize(
    "text",
    [
        *("O'Brien", 'a "b", c;\nd', "Zo\u00eb \U0001f469", "1=1", "", "'=1", "5 - 6", "a\r\n\r\nb;", 'he said "-5"'),
        *(PHONE, "+447700900321", "+1234567", "+123456789012345"),
    ],
)
def test_phone_numbers_and_other_texts_are_unchanged(harbour, text):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text, phone_number=text).save()

    (line,) = exported(batch)

    assert line["first_name"] == line["phone_number"] == text


@pytest.mark.parametrize("text", ["\n", ";", " ;", "|", '"', ';"', "\t", " "])
def test_a_million_separators_blanks_or_quotes_take_linear_time(harbour, text):
    batch = harbour.batch()
    harbour.contact(batch, first_name=text * 1_000_000).save()

    # A regular expression that backtracks would take an hour.
    assert written(batch).count(text[0]) >= 1_000_000


def formulas(text):
    """Return the cells that a spreadsheet could take for a formula, except for phone numbers."""
    return {
        cell
        for cell in cells(text)
        if re.match('[\t\r\n]|[\\s\x01\u200b"]*[=+@\\-\uff1d\uff0b\uff0d\uff20]', cell)
        and not E164.fullmatch(cell.strip('"'))
    }


@pytest.fixture
def batch(harbour):
    """A batch with two contacts."""
    return harbour.batch(queued=2)


@given(rows=st.lists(st.tuples(*[TEXTS] * len(COLUMNS)), min_size=2, max_size=2))
@example(rows=[(PHONE, 'a;"=1+1;b', "", "", "", "ends with a separator;")] * 2)
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_reader_finds_a_formula_whatever_separates_its_cells_and_quotes_mean_to_it(batch, rows):
    for contact, texts in zip(batch.contacts.all(), rows, strict=True):
        batch.contacts.filter(pk=contact.pk).update(**dict(zip(COLUMNS, texts, strict=True)))

    assert formulas(written(batch)) == set()


def test_control_with_a_guard_of_values_a_reader_finds_formulas(batch, monkeypatch):
    batch.contacts.update(first_name='a;"=1+1;b', company="x,=1")
    monkeypatch.setattr(export, "_guard", lambda text: f"'{text}" if re.match("[=+\\-@\t\r\n]", text) else text)

    assert {cell for cell in formulas(written(batch)) if "=1" in cell} >= {"=1+1", '=1"'}
